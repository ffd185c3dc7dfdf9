"""A command in a live sandbox over HTTP, beside the same command started on the host."""

import json

from .figures import Series, Verdict, show_series
from .peers import TRUE
from .worker import Worker

# One whole CPU, so that the sandbox's own limit is not what is measured.
SANDBOX = {"instance_type": "standard", "idle_timeout_s": 0}
EXEC = json.dumps({"argv": [TRUE]}, separators=(",", ":"))
TARGET = 1.6


def run(bench):
    """Verdicts and series."""
    product, fork, spawn = Series("isopod exec"), Series("fork+exec"), Series("posix_spawn")
    server = bench.server("exec")
    with server, bench.group("fork") as fork_group, bench.group("spawn") as spawn_group:
        path = f"/v1/sandboxes/{server.create(SANDBOX)}/exec"
        with (
            Worker(bench.client, ["http", server.address]) as http,
            Worker(bench.client, ["spawn"], fork_group) as forker,
            Worker(bench.client, ["spawn"], spawn_group) as spawner,
        ):
            participants = [
                (product, server.group, lambda count: http.times("request", count, "POST", path, EXEC)),
                (fork, fork_group, lambda count: forker.times("fork", count, 1, 0, TRUE)),
                (spawn, spawn_group, lambda count: spawner.times("posix_spawn", count, 1, 0, TRUE)),
            ]
            for _, _, work in participants:
                work(20)
            server.settle()
            for number in range(bench.rounds * 4):
                # The order turns, so that nobody always comes after the same other.
                for series, group, work in turned(participants, number):
                    series.measure(group, lambda work=work: work(bench.count(50)))
    merge_rounds((product, fork, spawn), 4)
    show_series([product, fork, spawn])
    return [
        Verdict.of("exec of true in a live sandbox", product, fork, TARGET),
        Verdict.of("exec of true in a live sandbox", product, spawn),
    ], [product, fork, spawn]


def turned(participants, number):
    """The participants, beginning with another one each time."""
    start = number % len(participants)
    return participants[start:] + participants[:start]


def merge_rounds(all_series, batches):
    """Makes one round of so many short batches that were interleaved."""
    for series in all_series:
        rounds = range(0, len(series.rounds), batches)
        series.rounds = [sum(series.rounds[start : start + batches], []) for start in rounds]
