"""A new sandbox and its first command over HTTP, beside bubblewrap and OCI runtimes."""

import contextlib

from . import peers
from .exec import EXEC, merge_rounds, turned
from .figures import Series, Verdict, show_series
from .peers import TRUE
from .worker import Worker

SANDBOX = "{}"
TARGET = 1.2
# Time for the pools to be filled again, in the variant that gives it.
GAP_MS = 50


class Lives:
    """Sandboxes of one server: created, used once, deleted; the last is not timed."""

    def __init__(self, name, server, http, gap_ms):
        self.series, self.created = Series(name), Series(f"  of it create, {name}")
        self.server, self.http, self.gap_ms = server, http, gap_ms

    def batch(self, count):
        created = []

        def work():
            words = self.http.order("life", count, self.gap_ms, SANDBOX, EXEC)
            pairs = [[int(number) for number in word.split(":")] for word in words]
            created.extend(create for create, _ in pairs)
            return [create + execute for create, execute in pairs]

        self.series.measure(self.server.group, work, self.server.settle)
        self.created.add(created)


class Runs:
    """A peer that makes a sandbox for one command."""

    def __init__(self, name, group, worker, argv, gap_ms=0):
        self.series, self.gap_ms = Series(name), gap_ms
        self.group, self.worker, self.argv = group, worker, argv

    def batch(self, count):
        self.series.measure(
            self.group, lambda: self.worker.times("posix_spawn", count, 1, self.gap_ms, *self.argv))


def run(bench):
    """Verdicts and series."""
    with contextlib.ExitStack() as stack:
        pooled = stack.enter_context(bench.server("pool"))
        cold = stack.enter_context(bench.server("cold", pool=0))
        to_pooled = stack.enter_context(Worker(bench.client, ["http", pooled.address]))
        to_cold = stack.enter_context(Worker(bench.client, ["http", cold.address]))
        spaced = Lives(f"isopod pool, every {GAP_MS} ms", pooled, to_pooled, GAP_MS)
        close = Lives("isopod pool, back to back", pooled, to_pooled, 0)
        without = Lives("isopod without pool", cold, to_cold, 0)
        others = list(peer_runs(bench, stack))
        participants = [spaced, close, without, *others]
        for participant in participants:
            participant.batch(3)
            participant.series.rounds.clear()
            participant.series.cpu_ns = 0
        for lives in (spaced, close, without):
            lives.created.rounds.clear()
        for number in range(bench.rounds * 4):
            for participant in turned(participants, number):
                participant.batch(bench.count(10))
        stack.callback(lambda: [peers.sweep(other.group) for other in others])
    ours = [spaced, close, without]
    series = [one for lives in ours for one in (lives.series, lives.created)] + [other.series for other in others]
    merge_rounds(series, 4)
    show_series(series)
    verdicts = []
    for other in others:
        target = TARGET if other.series.name.startswith("bwrap") else None
        # A machine that was idle for a moment is slower to begin: like is compared with like.
        verdicts += [Verdict.of(f"create + exec: {lives.series.name[7:]}", lives.series, other.series, target)
                     for lives in ours if lives.gap_ms == other.gap_ms]
    return verdicts, series


def peer_runs(bench, stack):
    """Every peer that works here."""
    for name in ("bwrap", "crun", "runc"):
        group = stack.enter_context(bench.group(name))
        prefix = []
        if name == "bwrap":
            argv = peers.bwrap(TRUE)
        else:
            argv, prefix = peers.oci(name, bench.scratch, group, TRUE), peers.oci_prefix()
        if argv and peers.works(prefix, argv):
            worker = stack.enter_context(Worker(bench.client, ["spawn"], group, prefix))
            yield Runs(name, group, worker, argv)
            if name == "bwrap":
                yield Runs(f"{name}, every {GAP_MS} ms", group, worker, argv, GAP_MS)
