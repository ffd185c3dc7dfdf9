"""The peers: bubblewrap and OCI runtimes, each with as equal a sandbox as it can make."""

import json
import pathlib
import subprocess

from .machine import program

TRUE = "/bin/true"


def bwrap(*command):
    """The command line of bubblewrap with all namespaces, /usr read-only, /proc, /dev and /tmp of its own."""
    found = program("bwrap", "bubblewrap")
    if not found:
        return None
    links = [word for name in ("bin", "lib", "lib64") for word in ("--symlink", f"usr/{name}", f"/{name}")]
    mounts = ["--ro-bind", "/usr", "/usr", *links, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    return [found, "--unshare-all", *mounts, *command]


def _bundle(directory, command, group):
    """An OCI bundle that is equal to the bubblewrap sandbox, less the user namespace and with a control group."""
    root = directory / "rootfs"
    for name in ("usr", "proc", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    tmpfs = {"type": "tmpfs", "source": "tmpfs"}
    config = {
        "ociVersion": "1.0.0",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(command),
            "env": ["PATH=/usr/bin"],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": False},
        "mounts": [
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["bind", "ro"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", **tmpfs, "options": ["nosuid", "strictatime", "mode=755"]},
            {"destination": "/tmp", **tmpfs, "options": ["nosuid", "nodev"]},
        ],
        "linux": {
            "cgroupsPath": group,
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
        },
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def is_hybrid():
    """Whether cgroup v2 is mounted beside v1 hierarchies, which OCI runtimes refuse."""
    mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    kinds = {mount[2] for mount in mounts if mount[1].startswith("/sys/fs/cgroup")}
    return {"cgroup", "cgroup2"} <= kinds and pathlib.Path("/sys/fs/cgroup/unified").is_mount()


def oci_prefix():
    """What an OCI runtime needs before it: on a hybrid host a mount namespace that shows v1 only."""
    if not is_hybrid():
        return []
    return ["unshare", "-m", "--propagation", "private", "sh", "-c", 'umount /sys/fs/cgroup/unified && exec "$@"', "sh"]


def oci(name, scratch, group, *command):
    """The command line of an OCI runtime, none when it is not to be had."""
    found = program(name)
    if not found:
        return None
    directory = pathlib.Path(scratch, f"bundle-{name}")
    directory.mkdir()
    _bundle(directory, command, f"/{group.directory.name}/box")
    state = pathlib.Path(scratch, f"state-{name}")
    return [found, "--root", str(state), "run", "--bundle", str(directory), f"bench-{name}"]


def sweep(group):
    """Removes what an OCI runtime left of its control groups in the other hierarchies."""
    for hierarchy in pathlib.Path("/sys/fs/cgroup").iterdir():
        directory = hierarchy / group.directory.name
        for left in (directory / "box", directory):
            if left != group.directory and left.is_dir():
                try:
                    left.rmdir()
                except OSError:
                    pass


def works(prefix, argv):
    """Whether a peer can run here; says why not."""
    tried = subprocess.run([*prefix, *argv], capture_output=True, text=True, check=False)
    if tried.returncode:
        print(f"bench: {argv[0]} does not work here, left out: {tried.stderr.strip()[-300:]}", flush=True)
    return tried.returncode == 0
