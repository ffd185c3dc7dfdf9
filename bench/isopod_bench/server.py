"""A server of the product on a data directory of its own."""

import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from .cpu import CpuGroup
from .machine import command_of, memory_of

READY_LIMIT_S = 60
END_LIMIT_S = 120


def free_address():
    """A loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def wait_gone(pid, limit_s=END_LIMIT_S):
    """Waits for the end of a process that need not be ours."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(handle, closefd=True):
        if not select.select([handle], [], [], limit_s)[0]:
            raise SystemExit(f"bench: process {pid} does not end")


class Server:
    """`isopod serve` in a control group that counts, as a context. Its log is kept until the end of the run."""

    def __init__(self, binary, scratch, name, pool=None):
        self.binary, self.name, self.pool = binary, name, pool
        self.data = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scratch))
        self.address = free_address()
        self.group = CpuGroup(name)

    def command(self):
        return [str(self.binary), "serve", "--listen", self.address, "--data-dir", str(self.data), "--stop-sandboxes"]

    def environment(self):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ISOPOD_")}
        if self.pool is not None:
            environment["ISOPOD_WARM_POOL"] = str(self.pool)
        return environment

    def __enter__(self):
        self.group.__enter__()
        self.log = open(self.data.with_suffix(".log"), "wb")
        self.process = subprocess.Popen(
            self.group.entering(self.command()), env=self.environment(), stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + READY_LIMIT_S
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.flush()
                said = self.data.with_suffix(".log").read_text()[-2000:]
                self.__exit__()
                raise SystemExit(f"bench: the server did not start:\n{said}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=END_LIMIT_S)
        except subprocess.TimeoutExpired:
            print(f"bench: the server {self.name} did not end when told to; killing it", flush=True)
            self.process.kill()
            self.process.wait()
        self.log.close()
        # The launcher waits a few seconds for another server; there will be none.
        self.group.__exit__()

    def is_ready(self):
        try:
            self.ask("GET", "/health/ready")
            return True
        except (OSError, urllib.error.URLError):
            return False

    def ask(self, method, path, body=None):
        """One request outside of what is measured; the JSON of the answer."""
        data = json.dumps(body).encode() if body is not None else None
        headers = {"content-type": "application/json"} if data else {}
        request = urllib.request.Request(f"http://{self.address}{path}", data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def create(self, body):
        return self.ask("POST", "/v1/sandboxes", body)["id"]

    def settle(self):
        """Waits until removals are done and the pools are full again."""
        deadline = time.monotonic() + 60
        before = None
        while time.monotonic() < deadline:
            now = self.group.used_ns()
            # An idle server uses a few microseconds per second for its timers.
            if before is not None and now - before < 200_000:
                return
            before = now
            time.sleep(0.05)

    def memory(self, pid=None):
        """RSS and PSS in KiB of server (`pid`, unless it was started here) and launcher, PSS of what runs inside."""
        figures = {"server_rss": 0, "server_pss": 0, "launcher_rss": 0, "launcher_pss": 0, "sandboxes_pss": 0}
        server = pid or self.process.pid
        for pid in self.group.processes():
            rss, pss = memory_of(pid)
            if pid == server:
                figures["server_rss"], figures["server_pss"] = rss, pss
            elif command_of(pid) == "isopod-launcher":
                figures["launcher_rss"], figures["launcher_pss"] = rss, pss
            else:
                figures["sandboxes_pss"] += pss
        return figures
