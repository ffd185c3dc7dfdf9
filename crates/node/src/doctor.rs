//! What this host can and cannot do, and how to mend it.

use crate::tiers::container::{cgroup, slot::SLOTS};
use isopod_model::{limits::Limits, sandbox::Tier};
use isopod_node_api::{HostCheck, HostReport, TierReport};
use std::{collections::BTreeMap, fs, path::Path};

/// Memory that one idle container costs the host, in MiB, with a reserve: measured below 1 MiB, of which the kernel's
/// part is most (docs/SPECIFICATION.md).
const IDLE_MIB: u64 = 16;
/// Descriptors that one running container costs the server, with one exec.
const DESCRIPTORS: u64 = 8;

/// Looks at this host without changing anything.
pub fn doctor() -> HostReport {
    let checks =
        vec![root(), kernel(), namespaces(), file_system("overlay"), file_system("btrfs"), loop_devices()];
    let checks: Vec<HostCheck> = checks
        .into_iter()
        .chain(control_groups())
        .chain([merged_usr(), interpreters(), descriptors()])
        .collect();
    let broken: Vec<&HostCheck> = checks.iter().filter(|check| check.verdict == "error").collect();
    let reason = match broken.first() {
        None => "native Linux processes under namespaces, seccomp and control groups".to_owned(),
        Some(check) => format!("{}: {}; {}", check.name, check.found, check.remedy),
    };
    let kvm =
        if Path::new("/dev/kvm").exists() { "this host has /dev/kvm" } else { "this host has no /dev/kvm" };
    let tiers = vec![
        TierReport {
            tier: Tier::Wasm,
            available: false,
            reason: "not built yet; use tier auto or container".into(),
        },
        TierReport { tier: Tier::Container, available: broken.is_empty(), reason },
        TierReport {
            tier: Tier::Microvm,
            available: false,
            reason: format!("not built yet ({kvm}); use tier auto or container"),
        },
    ];
    let host = "this host's /usr, read-only below the sandbox's own files: no download".to_owned();
    let most = most();
    let max_sandboxes =
        (most.memory_mib / IDLE_MIB).min(descriptor_limit() / DESCRIPTORS).clamp(1, u64::from(SLOTS));
    HostReport { tiers, checks, most, max_sandboxes, templates: BTreeMap::from([("host".to_owned(), host)]) }
}

fn check(name: &str, verdict: &str, found: impl Into<String>, remedy: &str) -> HostCheck {
    HostCheck { name: name.into(), verdict: verdict.into(), found: found.into(), remedy: remedy.into() }
}

fn root() -> HostCheck {
    if rustix::process::geteuid().is_root() {
        check("user", "ok", "root", "")
    } else {
        check(
            "user",
            "error",
            "not root",
            "run isopod as root (sudo): it makes namespaces, mounts and control groups",
        )
    }
}

fn kernel() -> HostCheck {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (5, 19) {
        check("kernel", "ok", release, "")
    } else {
        check("kernel", "error", release, "use Linux 5.19 or newer: overlays on idmapped mounts are needed")
    }
}

fn namespaces() -> HostCheck {
    let missing: Vec<&str> = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"]
        .into_iter()
        .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
        .collect();
    let allowed = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if !missing.is_empty() {
        check(
            "namespaces",
            "error",
            format!("none for {}", missing.join(", ")),
            "use a kernel with all namespaces",
        )
    } else if allowed.trim() == "0" {
        check(
            "namespaces",
            "error",
            "user namespaces are switched off",
            "sysctl -w user.max_user_namespaces=32767",
        )
    } else {
        check("namespaces", "ok", "user, mnt, pid, net, ipc, uts, cgroup", "")
    }
}

fn file_system(name: &str) -> HostCheck {
    let listed = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let loadable = || {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let modules = fs::read_to_string(format!("/lib/modules/{release}/modules.dep")).unwrap_or_default();
        modules
            .lines()
            .any(|line| line.split(':').next().is_some_and(|path| path.contains(&format!("/{name}.ko"))))
    };
    if listed.lines().any(|line| line.split_whitespace().next_back() == Some(name)) {
        check(name, "ok", "in the kernel", "")
    } else if loadable() {
        check(name, "ok", "as a module, loaded when needed", "")
    } else {
        check(
            name,
            "error",
            "the kernel has no such file system",
            &format!("use a kernel with {name} (modprobe {name})"),
        )
    }
}

fn loop_devices() -> HostCheck {
    if Path::new("/dev/loop-control").exists() {
        check("loop devices", "ok", "/dev/loop-control", "")
    } else {
        check(
            "loop devices",
            "error",
            "no /dev/loop-control",
            "modprobe loop; in a container, pass the device in",
        )
    }
}

fn control_groups() -> Vec<HostCheck> {
    let found = cgroup::detect().unwrap_or_default();
    found
        .into_iter()
        .map(|found| {
            let name = format!("cgroup {}", found.controller);
            let needed = matches!(found.controller, "memory" | "cpu" | "pids");
            match (found.version, needed) {
                (0, true) => {
                    check(&name, "error", "no such controller", "mount cgroup v2, or v1 with this controller")
                }
                (0, false) => {
                    check(&name, "warning", "no such controller", "pausing or CPU figures are not available")
                }
                (version, _) => check(&name, "ok", format!("v{version}"), ""),
            }
        })
        .collect()
}

fn merged_usr() -> HostCheck {
    let merged = ["/bin", "/lib"].iter().all(|path| fs::read_link(path).is_ok());
    if merged {
        check("template host", "ok", "/usr is shown read-only; /bin, /lib are links into it", "")
    } else {
        check(
            "template host",
            "error",
            "/bin or /lib are not links into /usr",
            "merge /usr (Debian: apt-get install usrmerge)",
        )
    }
}

fn interpreters() -> HostCheck {
    let have = |name: &&str| {
        ["/usr/local/bin", "/usr/bin"].iter().any(|directory| Path::new(directory).join(name).exists())
    };
    let (found, missing): (Vec<&str>, Vec<&str>) =
        ["bash", "python3", "node", "git", "gcc"].into_iter().partition(have);
    if missing.is_empty() {
        check("programs in /usr", "ok", found.join(", "), "")
    } else {
        let remedy = "sandboxes on the template `host` have what the host has: install what you need";
        check(
            "programs in /usr",
            "warning",
            format!("{}; not {}", found.join(", "), missing.join(", ")),
            remedy,
        )
    }
}

fn descriptor_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn descriptors() -> HostCheck {
    let limit = descriptor_limit();
    if limit >= 16_384 {
        check("open files", "ok", limit.to_string(), "")
    } else {
        check(
            "open files",
            "warning",
            limit.to_string(),
            "raise it (ulimit -n 65536, or LimitNOFILE= in systemd) for more sandboxes",
        )
    }
}

/// The most that one sandbox may be given: all of the host.
fn most() -> Limits {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let pids = fs::read_to_string("/proc/sys/kernel/pid_max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(32_768);
    let disk_mib = rustix::fs::statvfs("/").map_or(1024, |facts| (facts.f_blocks * facts.f_frsize) >> 20);
    #[allow(clippy::cast_precision_loss, reason = "a small number")]
    Limits { memory_mib: total.unwrap_or(1 << 20) / 1024, cpus: cpus as f64, disk_mib, pids }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_failed_check_says_how_to_mend_it() {
        let report = super::doctor();
        assert_eq!(report.tiers.len(), 3);
        for check in &report.checks {
            assert!(check.verdict == "ok" || !check.remedy.is_empty(), "{check:?}");
        }
    }
}
