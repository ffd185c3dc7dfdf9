"""What was measured, and how it is shown."""

import statistics


def percentile(values, percent):
    """The smallest value that so many percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


class Series:
    """Times of one participant, round by round."""

    def __init__(self, name):
        self.name = name
        self.rounds = []
        self.cpu_ns = 0

    def add(self, times, cpu_ns=0):
        self.rounds.append(times)
        self.cpu_ns += cpu_ns

    def measure(self, group, work, settle=None):
        """Adds the times that `work` gives and the processor time of `group` meanwhile."""
        before = group.used_ns()
        times = work()
        if settle:
            settle()
        self.add(times, group.used_ns() - before)

    def all(self):
        return [time for times in self.rounds for time in times]

    def p50(self):
        return percentile(self.all(), 50)

    def p99(self):
        return percentile(self.all(), 99)

    def cpu_per_operation(self):
        return self.cpu_ns / len(self.all())

    def summary(self):
        """For the table and the file; milliseconds."""
        return {
            "name": self.name,
            "operations": len(self.all()),
            "p50_ms": round(self.p50() / 1e6, 4),
            "p99_ms": round(self.p99() / 1e6, 4),
            "min_ms": round(min(self.all()) / 1e6, 4),
            "cpu_ms": round(self.cpu_per_operation() / 1e6, 4) if self.cpu_ns else None,
        }


def ratios(product, peer):
    """Median, least and greatest ratio of the rounds' p50, and the ratio of processor time."""
    each = [percentile(a, 50) / percentile(b, 50) for a, b in zip(product.rounds, peer.rounds)]
    cpu = product.cpu_per_operation() / peer.cpu_per_operation() if product.cpu_ns and peer.cpu_ns else None
    return statistics.median(each), min(each), max(each), cpu


class Verdict:
    """One line of the final table. `target` is the most that `value` may be; none is for information."""

    def __init__(self, what, value, target=None, unit="x", spread="", at_least=False):
        self.what, self.value, self.target, self.unit = what, value, target, unit
        self.spread, self.at_least = spread, at_least

    @classmethod
    def of(cls, what, product, peer, target=None):
        middle, least, most, cpu = ratios(product, peer)
        spread = f"rounds {least:.2f} to {most:.2f}" + (f"; CPU {cpu:.2f} x" if cpu else "")
        return cls(f"{what} / {peer.name}", middle, target, spread=spread)

    def word(self):
        if self.target is None:
            return "-"
        met = self.value >= self.target if self.at_least else self.value <= self.target
        return "met" if met else "MISSED"

    def bound(self):
        if self.target is None:
            return "-"
        return f"{'>=' if self.at_least else '<='} {self.target:g} {self.unit}"

    def summary(self):
        return {
            "what": self.what,
            "value": round(self.value, 4),
            "unit": self.unit,
            "target": self.bound(),
            "verdict": self.word(),
            "spread": self.spread,
        }


def table(rows, headings):
    """Rows of text under headings, in columns; the first column to the left, numbers to the right."""
    rows = [headings, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(headings))]
    lines = []
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  ".join(cells).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


def show_series(series):
    number = lambda value: "-" if value is None else f"{value:.3f}"  # noqa: E731
    rows = [
        [figures["name"], str(figures["operations"])]
        + [number(figures[key]) for key in ("min_ms", "p50_ms", "p99_ms", "cpu_ms")]
        for figures in (one.summary() for one in series)
    ]
    print(table(rows, ["", "n", "min ms", "p50 ms", "p99 ms", "CPU ms/op"]), flush=True)


def show_verdicts(verdicts):
    rows = [
        [one.what, f"{one.value:.2f} {one.unit}", one.bound(), one.word(), one.spread] for one in verdicts
    ]
    print(table(rows, ["", "measured", "target", "verdict", ""]), flush=True)
