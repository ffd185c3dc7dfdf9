#!/usr/bin/env bash
# A service inside a sandbox: start it in the background, wait until it listens, use it, end it. Needs curl, python3.
set -euo pipefail

api="${ISOPOD_URL:-http://127.0.0.1:8080}/v1/sandboxes"
name="background-$$"
call() { curl --silent --show-error --fail-with-body "$@"; }
member() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

call "$api" --json "{\"name\": \"$name\"}" >/dev/null
trap 'call --request DELETE "$api/$name" || true' EXIT

server=$(call "$api/$name/exec" --json '{"argv": ["python3", "-m", "http.server", "8000"], "background": true}' | member id)
call "$api/$name/execs/$server/wait" --json '{"for": "port", "port": 8000, "timeout_ms": 30000}' >/dev/null

status=$(call "$api/$name/exec" --json '{"language": "python", "code": "import urllib.request; print(urllib.request.urlopen(\"http://127.0.0.1:8000/\").status)"}' | member stdout)
if [ "$status" != 200 ]; then
    echo "the server inside answered '$status'" >&2
    exit 1
fi
echo "the server inside answered 200"

call "$api/$name/execs/$server/signal" --json '{"signal": "SIGTERM"}'
reason=$(call "$api/$name/execs/$server/wait" --json '{"for": "exit", "timeout_ms": 30000}' | member reason)
if [ "$reason" != signaled ]; then
    echo "the server inside ended '$reason', not by the signal" >&2
    exit 1
fi
echo "the server inside ended: $reason"
