#!/usr/bin/env python3
"""What a coding agent does with a sandbox: write a program, watch it run, read what it made, clean up.

Needs only Python's standard library and a running server (`isopod serve`). Raises on anything unexpected.
"""

import json
import os
import urllib.error
import urllib.request

API = os.environ.get("ISOPOD_URL", "http://127.0.0.1:8080") + "/v1/sandboxes"

PROGRAM = b"""
import json, time
total = 0
for step in range(1, 6):
    total += step
    print(f"step {step}: {total}", flush=True)
with open("result.json", "w") as file:
    json.dump({"total": total}, file)
"""


def call(method, path, body=None, headers=None):
    """One request; the open answer. An error's problem document is raised whole."""
    request = urllib.request.Request(API + path, data=body, method=method, headers=headers or {})
    try:
        return urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{method} {path}: {error.code}: {error.read().decode()}") from error


def call_json(method, path, body):
    with call(method, path, json.dumps(body).encode(), {"Content-Type": "application/json"}) as answer:
        return json.load(answer)


def events(answer):
    """Server-sent events as (name, data); lines that begin with a colon only keep the connection alive."""
    name, data = "message", []
    for line in answer:
        line = line.decode().rstrip("\n")
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].strip())
        elif not line and data:
            yield name, json.loads("\n".join(data))
            name, data = "message", []


def run(sandbox, command):
    """Runs a command and shows its output as it comes; the record of its end."""
    body = json.dumps(command).encode()
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    with call("POST", f"/{sandbox}/exec", body, headers) as answer:
        for name, data in events(answer):
            if name in ("stdout", "stderr"):
                print(data["data"], end="", flush=True)
            elif name == "exit":
                return data
            elif name == "error":
                raise RuntimeError(f"the stream broke: {data}")
    raise RuntimeError("the stream ended without an exit")


def main():
    sandbox = call_json("POST", "", {"labels": {"example": "agent"}, "timeout_s": 600})["id"]
    print(f"sandbox {sandbox}")
    try:
        call("PUT", f"/{sandbox}/files/workspace/program.py", PROGRAM).close()
        end = run(sandbox, {"argv": ["python3", "program.py"], "timeout_ms": 30_000})
        if not end["success"]:
            raise RuntimeError(f"the program failed: {end}")
        with call("GET", f"/{sandbox}/files/workspace/result.json") as answer:
            result = json.load(answer)
        if result != {"total": 15}:
            raise RuntimeError(f"the program wrote {result}")
        print(f"it ended ({end['reason']}) after {end['duration_ms']:.0f} ms and wrote {result}")
    finally:
        call("DELETE", f"/{sandbox}").close()
    try:
        call("GET", f"/{sandbox}")
    except RuntimeError as error:
        if ": 410: " not in str(error):
            raise
        print("the sandbox is gone, and its end is on record")
    else:
        raise RuntimeError("the sandbox is still there")


if __name__ == "__main__":
    main()
