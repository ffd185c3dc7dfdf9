"""The machine: what it is, what is installed, how much memory it has left."""

import os
import pathlib
import shutil
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def build():
    """Builds the server and the bench client; paths of both."""
    subprocess.run(["cargo", "build", "--release", "-p", "isopod", "-p", "isopod-bench-client"], cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    return target / "isopod", target / "isopod-bench-client"


def program(name, package=None):
    """Where a program is; installed by apt when it is missing, none when that fails."""
    search = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    found = shutil.which(name, path=search)
    if not found:
        print(f"bench: {name} is missing; installing the package {package or name}", flush=True)
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package or name]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        found = shutil.which(name, path=search)
    if not found:
        print(f"bench: {name} is not to be had here; going on without it", flush=True)
    return found


def facts():
    """What a reader of the figures should know of the machine."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), "unknown")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True, capture_output=True)
    return {
        "kernel": os.uname().release,
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "memory_mib": meminfo()["MemTotal"] // 1024,
        "busy_percent": busy_percent(),
        "commit": commit.stdout.strip(),
    }


def busy_percent(seconds=1.0):
    """How much of the machine's processors others use, while nothing of ours runs."""
    def counted():
        figures = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(figures), figures[3] + figures[4]

    total, idle = counted()
    time.sleep(seconds)
    total_after, idle_after = counted()
    return round(100 * (1 - (idle_after - idle) / max(1, total_after - total)), 1)


def meminfo():
    """`/proc/meminfo` in KiB."""
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def memory_of(pid):
    """(RSS, PSS) of a process in KiB; zeros once it is gone."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    figures = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return figures.get("Rss", 0), figures.get("Pss", 0)


def command_of(pid):
    """The short name of a process."""
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
