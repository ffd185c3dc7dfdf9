"""Processor time of whole process trees, to the nanosecond.

Each participant (a server with its launcher and sandboxes, a worker with the processes it starts) runs in a control
group of its own, and the kernel adds up user and system time of all its processes, dead ones included. What the
kernel does on its own threads for them (removing network namespaces, writing disks) is in nobody's sum.
"""

import os
import pathlib
import signal
import time


def _mounts():
    """(mount point, file system, options) of every control group hierarchy."""
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        system, _, options = kind.split(" ", 2)
        if system in ("cgroup", "cgroup2"):
            yield mount.split(" ")[4], system, options.split(",")


def _own_group(named):
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if named in names.split(",") or (not named and not names):
            return path.lstrip("/")
    return ""


def hierarchy():
    """(directory of our own group, version) where processor time is counted."""
    found = list(_mounts())
    for point, system, options in found:
        if system == "cgroup" and "cpuacct" in options:
            return pathlib.Path(point, _own_group("cpuacct")), 1
    for point, system, _ in found:
        if system == "cgroup2":
            return pathlib.Path(point, _own_group("")), 2
    raise SystemExit("bench: no control group hierarchy counts processor time here")


class CpuGroup:
    """A control group that counts, as a context."""

    def __init__(self, name):
        parent, self.version = hierarchy()
        self.directory = parent / f"isopod-bench-{os.getpid()}-{name}"

    def __enter__(self):
        self.directory.mkdir()
        return self

    def __exit__(self, *_):
        """Ends what is left in it: all of it was started here."""
        deadline = time.monotonic() + 10
        while True:
            left = self.processes()
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            try:
                for directory, _, _ in os.walk(self.directory, topdown=False):
                    os.rmdir(directory)
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def entering(self, argv):
        """The command line that runs `argv` inside."""
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.directory / "cgroup.procs"), *argv]

    def used_ns(self):
        """User and system time of all its processes so far."""
        if self.version == 1:
            return int((self.directory / "cpuacct.usage").read_text())
        for line in (self.directory / "cpu.stat").read_text().splitlines():
            if line.startswith("usage_usec "):
                return int(line.split()[1]) * 1000
        raise SystemExit("bench: cpu.stat has no usage_usec")

    def processes(self):
        """Process ids in it and below it."""
        pids = set()
        for directory, _, _ in os.walk(self.directory):
            try:
                pids.update(int(pid) for pid in pathlib.Path(directory, "cgroup.procs").read_text().split())
            except OSError:
                pass
        return sorted(pids)
