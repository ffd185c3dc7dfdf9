"""The command line of `bench/run`."""

import argparse
import datetime
import json
import os
import pathlib
import signal
import sys
import tempfile
import time

from . import cold, create, density, exec, load
from .cpu import CpuGroup
from .figures import show_verdicts
from .machine import ROOT, build, busy_percent, facts
from .server import Server

WORKLOADS = {
    "exec": exec,
    "create": create,
    "density": density,
    "cold": cold,
    "load": load,
}


# From here on ratios are not to be believed.
BUSY_PERCENT = 15.0


class Bench:
    """What every workload is given."""

    def __init__(self, binary, client, scratch, rounds, quick):
        self.binary, self.client, self.scratch = binary, client, scratch
        self.rounds, self.quick = rounds, quick

    def count(self, full):
        """How many operations a batch has."""
        return max(3, full // 3) if self.quick else full

    def server(self, name, pool=None):
        return Server(self.binary, self.scratch, name, pool)

    def group(self, name):
        return CpuGroup(name)


def arguments():
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer operations; below a minute")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each workload (default 5, at least 3)")
    parser.add_argument("--only", help="workloads, separated by commas: " + ", ".join(WORKLOADS))
    parser.add_argument("--save", action="store_true", help="write bench/results/<date>.json")
    parser.add_argument("--no-build", nargs=2, metavar=("SERVER", "CLIENT"), help="use these binaries as they are")
    given = parser.parse_args()
    given.workloads = given.only.split(",") if given.only else list(WORKLOADS)
    for name in given.workloads:
        if name not in WORKLOADS:
            parser.error(f"no such workload: {name}")
    given.rounds = 3 if given.quick else max(3, given.rounds)
    return given


def main():
    given = arguments()
    if os.geteuid() != 0:
        print("bench: this needs root: it makes sandboxes and control groups; run it with sudo")
        return 1
    # So that everything that was started is ended, also when this is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    binary, client = (pathlib.Path(path).resolve() for path in given.no_build or build())
    begun = time.monotonic()
    machine = facts()
    print("  ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    verdicts, series = [], {}
    with tempfile.TemporaryDirectory(prefix="isopod-bench-") as scratch:
        bench = Bench(binary, client, scratch, given.rounds, given.quick)
        for name in given.workloads:
            print(f"\n{name}: {WORKLOADS[name].__doc__.splitlines()[0]}", flush=True)
            found, measured = WORKLOADS[name].run(bench)
            verdicts += found
            series[name] = [one.summary() for one in measured]
    print()
    show_verdicts(verdicts)
    took = time.monotonic() - begun
    machine["busy_percent_after"] = busy_percent()
    busy = [machine["busy_percent"], machine["busy_percent_after"]]
    print(f"\n{took:.0f} s; others kept the processors busy by {busy[0]} % before and {busy[1]} % after")
    if max(busy) > BUSY_PERCENT:
        print("the machine was not idle: these ratios say who gets more of it, not who needs less; run it again")
    if given.save:
        save(machine, series, verdicts)
    return 0


def save(machine, series, verdicts):
    now = datetime.datetime.now(datetime.timezone.utc)
    directory = ROOT / "bench" / "results"
    directory.mkdir(exist_ok=True)
    path = directory / f"{now:%Y-%m-%dT%H-%M-%SZ}.json"
    result = {"at": now.isoformat(timespec="seconds"), "machine": machine, "series": series,
              "verdicts": [verdict.summary() for verdict in verdicts]}
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"saved as {path.relative_to(ROOT)}")
