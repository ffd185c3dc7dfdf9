//! What a sandbox sees of the machine: its own limits instead of the host's.

use std::{
    fs, io,
    path::Path,
    sync::{Mutex, PoisonError},
};

/// Writes `meminfo`, `cpuinfo` and a small `sys/` tree into `directory`, to be shown over `/proc/meminfo`,
/// `/proc/cpuinfo` and `/sys`. They state limits and do not move: `MemFree` is all of the limit. Leaves a view that is
/// there already as it is; starts that need the same one at the same time may all call this.
///
/// # Errors
/// When the host's disk refuses a file.
pub fn build_view(directory: &Path, memory_mib: u64, cpus: u32) -> io::Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _only = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if directory.exists() {
        return Ok(());
    }
    let fresh = directory.with_extension("new");
    if let Err(error) = fs::remove_dir_all(&fresh)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    fs::create_dir_all(&fresh)?;
    fs::write(fresh.join("meminfo"), meminfo(memory_mib * 1024))?;
    fs::write(fresh.join("cpuinfo"), cpuinfo(&fs::read_to_string("/proc/cpuinfo")?, cpus))?;
    build_sys(&fresh.join("sys"), cpus)?;
    fs::rename(&fresh, directory)
}

fn meminfo(kib: u64) -> String {
    let rows = [
        ("MemTotal", kib),
        ("MemFree", kib),
        ("MemAvailable", kib),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", 0),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", 0),
        ("Mapped", 0),
        ("Shmem", 0),
        ("Slab", 0),
    ];
    rows.iter().map(|(name, value)| format!("{:<16}{value:>8} kB\n", format!("{name}:"))).collect()
}

/// The first so many processors of the host's list.
fn cpuinfo(host: &str, cpus: u32) -> String {
    let blocks: Vec<&str> =
        host.split("\n\n").filter(|block| block.starts_with("processor")).take(cpus as usize).collect();
    blocks.join("\n\n") + "\n\n"
}

fn build_sys(sys: &Path, cpus: u32) -> io::Result<()> {
    let cpu = sys.join("devices/system/cpu");
    fs::create_dir_all(&cpu)?;
    let range = if cpus == 1 { "0\n".to_owned() } else { format!("0-{}\n", cpus - 1) };
    for file in ["online", "possible", "present"] {
        fs::write(cpu.join(file), &range)?;
    }
    for number in 0..cpus {
        let topology = cpu.join(format!("cpu{number}/topology"));
        fs::create_dir_all(&topology)?;
        for (file, text) in [
            ("core_id", format!("{number}\n")),
            ("physical_package_id", "0\n".into()),
            ("core_siblings_list", range.clone()),
        ] {
            fs::write(topology.join(file), text)?;
        }
    }
    let node = sys.join("devices/system/node");
    fs::create_dir_all(node.join("node0"))?;
    fs::write(node.join("online"), "0\n")?;
    fs::write(node.join("node0/cpulist"), &range)?;
    for directory in ["block", "bus", "class/net", "dev", "firmware", "fs/cgroup", "module", "power"] {
        fs::create_dir_all(sys.join(directory))?;
    }
    let huge = sys.join("kernel/mm/transparent_hugepage");
    fs::create_dir_all(&huge)?;
    fs::write(huge.join("enabled"), "always [madvise] never\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_states_the_limits() {
        let place = tempfile::tempdir().expect("a directory");
        let view = place.path().join("256-2");
        build_view(&view, 256, 2).expect("built");
        assert!(
            fs::read_to_string(view.join("meminfo"))
                .expect("there")
                .starts_with("MemTotal:         262144 kB\n")
        );
        assert_eq!(fs::read_to_string(view.join("sys/devices/system/cpu/online")).expect("there"), "0-1\n");
        build_view(&view, 256, 2).expect("there already");
    }

    #[test]
    fn many_starts_may_need_the_same_view_at_once() {
        let place = tempfile::tempdir().expect("a directory");
        fs::create_dir(place.path().join("512-1.new")).expect("left by a crash");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| build_view(&place.path().join("512-1"), 512, 1).expect("built"));
            }
        });
        assert_eq!(fs::read_dir(place.path()).expect("there").count(), 1);
    }

    #[test]
    fn processors_beyond_the_limit_are_not_listed() {
        let host = "processor\t: 0\nx\t: y\n\nprocessor\t: 1\nx\t: y\n\n";
        assert_eq!(cpuinfo(host, 1), "processor\t: 0\nx\t: y\n\n");
    }
}
