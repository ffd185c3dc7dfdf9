"""A server from nothing to its first answer, and what it needs when it has nothing to do."""

import os
import signal
import subprocess

from .create import SANDBOX
from .exec import EXEC
from .figures import Series, Verdict, show_series, table
from .server import Server, wait_gone

TARGET_MIB = 40.0


def run(bench):
    """Verdicts and series."""
    new, again = ([Series(f"isopod {what}, {step}") for step in ("ready", "created", "first exec done")]
                  for what in ("on a new directory", "started again"))
    memory = []
    for _ in range(bench.rounds):
        server = Server(bench.binary, bench.scratch, "start")
        memory.append(one_start(bench, server, new))
        one_start(bench, server, again)
    series = [*new, *again]
    show_series(series)
    keys = list(memory[0])
    rows = [["", *(f"{each[key] / 1024:.1f}" for key in keys)] for each in memory]
    print(table(rows, ["idle, MiB", *keys]), flush=True)
    rss = sorted(each["server_rss"] for each in memory)[len(memory) // 2] / 1024
    whole = sorted(each["server_pss"] + each["launcher_pss"] for each in memory)[len(memory) // 2] / 1024
    return [
        Verdict("server, idle RSS", rss, TARGET_MIB, "MiB"),
        Verdict("server and launcher, idle PSS", whole, None, "MiB"),
        Verdict("server start to first exec done, new directory", new[2].p50() / 1e6, None, "ms"),
        Verdict("server start to first exec done, started again", again[2].p50() / 1e6, None, "ms"),
    ], series


def one_start(bench, server, series):
    """Starts the server, has it run one command, ends it; its memory in between."""
    with server.group:
        arguments = ["cold", server.address, SANDBOX, EXEC, *server.command()]
        command = server.group.entering([str(bench.client), *arguments])
        # Files, not pipes: the server inherits them and goes on.
        answer, log = server.data.with_suffix(".times"), server.data.with_suffix(".log")
        with open(answer, "wb") as to_answer, open(log, "ab") as to_log:
            started = subprocess.run(
                command, env=server.environment(), stdout=to_answer, stderr=to_log, check=False)
        if started.returncode:
            raise SystemExit(f"bench: the server did not start:\n{log.read_text()[-2000:]}")
        pid, *times = (int(word) for word in answer.read_text().split())
        for one, time in zip(series, times):
            one.add([time], server.group.used_ns())
        for sandbox in server.ask("GET", "/v1/sandboxes")["items"]:
            server.ask("DELETE", f"/v1/sandboxes/{sandbox['id']}")
        server.settle()
        memory = server.memory(pid)
        memory.pop("sandboxes_pss")
        os.kill(pid, signal.SIGTERM)
        wait_gone(pid)
    return memory
