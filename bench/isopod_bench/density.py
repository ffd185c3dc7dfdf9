"""Many idle sandboxes: what each costs, and whether the last is as quick as the first."""

import subprocess
import time

from . import peers
from .figures import Series, Verdict, percentile, show_series, table
from .machine import meminfo, memory_of
from .worker import Worker

SANDBOX = '{"idle_timeout_s":0}'
TARGET_MIB = 1.0
# Time may spread by this much between the first and the last without being called a slowdown.
SLOWDOWN = 1.25
KERNEL = ("Slab", "PageTables", "KernelStack", "Percpu", "VmallocUsed")


def run(bench):
    """Verdicts and series."""
    total, edge = (500, 50) if not bench.quick else (100, 20)
    rounds = 1 if bench.quick else 3
    first, last = Series(f"isopod create, 1st to {edge}th"), Series(f"isopod create, last {edge} of {total}")
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(product_round(bench, total, edge, first, last))
        theirs.append(peer_round(bench, total))
    show_series([first, last])
    keys = list(ours[0])
    rows = [["isopod", *(f"{each[key]:.3f}" for key in keys)] for each in ours]
    rows += [["bwrap sleep", *(f"{each.get(key, 0.0):.3f}" for key in keys)] for each in theirs if each]
    print(table(rows, ["MiB per idle sandbox", *keys]), flush=True)
    # The rounds agree closely on the sum of all accounts; MemAvailable has the whole machine's noise in it.
    mine = max(each["sum"] for each in ours)
    verdicts = [Verdict(f"memory of an idle sandbox, {total} of them", mine, TARGET_MIB, "MiB")]
    if all(theirs):
        verdicts.append(Verdict("memory of an idle sandbox / bwrap sleep", mine / min(each["sum"] for each in theirs)))
    verdicts.append(Verdict.of(f"create: last {edge} of {total}", last, first, SLOWDOWN))
    return verdicts, [first, last]


def quiet():
    """Waits until the machine's memory stands still: much is given back late, by the kernel in the background."""
    before = meminfo()["MemAvailable"]
    for _ in range(40):
        time.sleep(0.25)
        now = meminfo()["MemAvailable"]
        if abs(now - before) < 512:
            return
        before = now


def snapshot(processes):
    """Memory in MiB: what is available to the machine, what the kernel uses, what processes use."""
    figures = meminfo()
    # Caches of files are available memory in the kernel's own estimate; what it reserves moves with them.
    shown = {"MemAvailable": -figures["MemAvailable"]}
    shown |= {key: figures[key] for key in KERNEL if key in figures}
    return {key: value / 1024 for key, value in (shown | processes).items()}


def difference(before, after, count):
    each = {key: (after[key] - before[key]) / count for key in before}
    each["sum"] = sum(value for key, value in each.items() if key != "MemAvailable")
    return each


def product_round(bench, total, edge, first, last):
    # Without a pool every create costs the same: the first would be quick because others were made ahead.
    with bench.server("density", pool=0) as server, Worker(bench.client, ["http", server.address]) as http:
        made = [http.order("create", 1, SANDBOX)[0].split(":")[0] for _ in range(3)]
        server.settle()
        quiet()
        before = snapshot(grown(server))
        answers = [word.split(":") for word in http.order("create", total, SANDBOX)]
        server.settle()
        quiet()
        after = snapshot(grown(server))
        times = [int(time) for _, time in answers]
        first.add(times[:edge])
        last.add(times[-edge:])
        for name in made + [name for name, _ in answers]:
            server.ask("DELETE", f"/v1/sandboxes/{name}")
        server.settle()
    return difference(before, after, total)


def grown(server):
    """What grows in the product's own processes, in KiB."""
    figures = server.memory()
    return {
        "server": figures["server_rss"],
        "launcher": figures["launcher_rss"],
        "processes": figures["sandboxes_pss"],
    }


def peer_round(bench, total):
    """The same number of sleeping bubblewraps; none where there is no bubblewrap."""
    argv = peers.bwrap("/bin/sleep", "3600")
    if not argv:
        return None
    with bench.group("sleepers") as group:
        quiet()
        before = snapshot({"processes": 0})
        command = group.entering(["/bin/sh", "-c", 'for i in $(seq "$0"); do "$@" & done; wait', str(total), *argv])
        sleepers = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        # Outer process, init inside, and the command itself.
        while len(group.processes()) < 3 * total and time.monotonic() < deadline:
            time.sleep(0.1)
        quiet()
        found = group.processes()
        after = snapshot({"processes": sum(memory_of(pid)[1] for pid in found)})
    sleepers.wait()
    if len(found) < 3 * total:
        print(f"bench: only {len(found)} processes of {total} bubblewraps came up", flush=True)
    return difference(before, after, total)
