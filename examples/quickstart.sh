#!/usr/bin/env bash
# A sandbox from the shell: create, exec, files, delete. Needs curl and a running server (`isopod serve`).
set -euo pipefail

api="${ISOPOD_URL:-http://127.0.0.1:8080}/v1/sandboxes"
name="quickstart-$$"
call() { curl --silent --show-error --fail-with-body "$@"; }

call "$api" --json "{\"name\": \"$name\", \"labels\": {\"example\": \"quickstart\"}}" >/dev/null
trap 'call --request DELETE "$api/$name" || true' EXIT

# A file goes in, a program reads it, another file comes out.
printf 'three\none\ntwo\n' | call --upload-file - "$api/$name/files/workspace/words.txt" >/dev/null
answer=$(call "$api/$name/exec" --json '{"shell": "sort words.txt | tee sorted.txt | wc -l"}')
sorted=$(call "$api/$name/files/workspace/sorted.txt")

if [ "$sorted" != $'one\nthree\ntwo' ]; then
    printf 'sorted.txt holds %q, and the exec answered %s\n' "$sorted" "$answer" >&2
    exit 1
fi
printf 'sorted inside %s:\n%s\n' "$name" "$sorted"

# A command that fails is an answer too, not an error of HTTP.
answer=$(call "$api/$name/exec" --json '{"argv": ["python3", "-c", "raise SystemExit(3)"]}')
case $answer in
    *'"exit_code":3'*) echo 'exit code 3, as asked for' ;;
    *)
        printf 'expected exit code 3: %s\n' "$answer" >&2
        exit 1
        ;;
esac
