#!/usr/bin/env bash
# Runs every example against a server of its own, which is gone afterwards: examples/check.sh <isopod executable>
set -euo pipefail
cd "$(dirname "$0")"

isopod=${1:?the path of the executable}
data=$(mktemp --directory --tmpdir=/var/tmp isopod-examples.XXXXXX)
log=$data/server.log
server=

finish() {
    local code=$?
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" || code=1
    fi
    if [ "$code" != 0 ]; then
        cat "$log" >&2 || true
    fi
    rm -rf "$data"
    exit "$code"
}
trap finish EXIT

ISOPOD_DISK_MIB=4096 "$isopod" serve --listen 127.0.0.1:0 --data-dir "$data/node" --stop-sandboxes 2>"$log" &
server=$!

# The server says where it listens as soon as it does.
address=
for _ in $(seq 600); do
    address=$(sed -nE 's/.*"address":"([^"]+)".*/\1/p' "$log" | head -1)
    [ -n "$address" ] && break
    kill -0 "$server"
    sleep 0.1
done
[ -n "$address" ] || { echo "the server did not come up" >&2; exit 1; }
export ISOPOD_URL="http://$address"

for example in quickstart.sh background.sh agent.py; do
    echo "-- examples/$example"
    "./$example"
done
