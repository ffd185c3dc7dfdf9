"""Requests without end: what the API itself costs, and how many commands per second go through it."""

import contextlib
import pathlib
import subprocess
import time
import urllib.error
import urllib.request

from .exec import EXEC, SANDBOX, turned
from .figures import Series, Verdict, show_series
from .machine import program
from .peers import TRUE
from .server import free_address
from .worker import Worker

# Of nginx answering a constant, which is as quick as a bare axum handler.
TARGET = 0.5
CONNECTIONS = 8


def run(bench):
    """Verdicts and series."""
    seconds = 0.5 if bench.quick else 1.5
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(bench.server("load"))
        body = SANDBOX | {"instance_type": "premium"}
        path = f"/v1/sandboxes/{server.create(body)}/exec"
        to_server = stack.enter_context(Worker(bench.client, ["http", server.address]))
        nginx = stack.enter_context(Nginx(bench)) if program("nginx", "nginx-light") else None
        host = stack.enter_context(bench.group("host"))
        spawner = stack.enter_context(Worker(bench.client, ["spawn"], host))
        to_nginx = stack.enter_context(Worker(bench.client, ["http", nginx.address])) if nginx else None

        def health(worker, connections):
            return lambda: worker.times("load", connections, seconds, "GET", "/health", "")

        def one(name, group, work):
            return Rate(name), group, work

        rows = []
        for connections in (1, 64):
            row = [one(f"isopod /health, {connections} connections", server.group, health(to_server, connections))]
            if nginx:
                row.append(one(f"nginx, {connections} connections", nginx.group, health(to_nginx, connections)))
            rows.append(row)
        rows.append([
            one(f"isopod exec, {CONNECTIONS} connections", server.group,
                lambda: to_server.times("load", CONNECTIONS, seconds, "POST", path, EXEC)),
            one(f"posix_spawn, {CONNECTIONS} threads", host,
                lambda: spawner.times("posix_spawn", int(100 * seconds), CONNECTIONS, 0, TRUE)),
        ])
        for row in rows:
            for number in range(bench.rounds):
                for rate, group, work in turned(row, number):
                    rate.measure(group, work)
    series = [rate for row in rows for rate, _, _ in row]
    show_series(series)
    verdicts = []
    for row in rows:
        product, *others = (rate for rate, _, _ in row)
        verdicts.append(Verdict(product.name, product.per_second(), None, "per s"))
        for other in others:
            target = TARGET if "64" in product.name else None
            ratio = product.per_second() / other.per_second()
            cpu = product.cpu_per_operation() / other.cpu_per_operation()
            spread = f"{other.name}: {other.per_second():.0f} per s; CPU {cpu:.2f} x"
            verdicts.append(Verdict("  rate of it / peer", ratio, target, spread=spread, at_least=True))
    return verdicts, series


class Rate(Series):
    """A series whose rate counts."""

    def __init__(self, name):
        super().__init__(name)
        self.seconds = 0.0

    def measure(self, group, work, settle=None):
        def clocked():
            begun = time.monotonic()
            times = work()
            self.seconds += time.monotonic() - begun
            return times

        super().measure(group, clocked, settle)

    def per_second(self):
        return len(self.all()) / self.seconds

    def summary(self):
        return super().summary() | {"per_second": round(self.per_second(), 1)}


class Nginx:
    """nginx answering a constant, as a context."""

    def __init__(self, bench):
        self.address, self.group = free_address(), bench.group("nginx")
        self.directory = pathlib.Path(bench.scratch, "nginx")

    def __enter__(self):
        self.group.__enter__()
        self.directory.mkdir()
        where = self.directory
        paths = "".join(f"{kind}_temp_path {where}/{kind};" for kind in
                        ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        answer = "default_type application/json; return 200 '{\"status\":\"ok\"}';"
        (where / "nginx.conf").write_text(
            f"worker_processes auto; daemon off; user root; pid {where}/pid; error_log {where}/error.log;"
            f"events {{ worker_connections 1024; }} http {{ access_log off; keepalive_requests 1000000000; {paths}"
            f"server {{ listen {self.address}; location / {{ {answer} }} }} }}")
        command = [program("nginx"), "-e", f"{where}/error.log", "-p", str(where), "-c", f"{where}/nginx.conf"]
        self.process = subprocess.Popen(self.group.entering(command))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://{self.address}/", timeout=5).read()
                return self
            except (OSError, urllib.error.URLError):
                time.sleep(0.02)
        raise SystemExit("bench: nginx does not answer")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.group.__exit__()
