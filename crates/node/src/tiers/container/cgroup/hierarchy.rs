//! Finding hierarchies, and handing controllers down in v2.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What was found where; for `doctor`.
#[derive(Debug, Clone)]
pub struct Found {
    /// The controller.
    pub controller: &'static str,
    /// 1 or 2; 0 when it is nowhere.
    pub version: u8,
}

pub(super) const WANTED: [&str; 5] = ["memory", "cpu", "pids", "freezer", "cpuacct"];
/// What v2 offers without a controller of that name.
pub(super) const BUILT_IN: [&str; 2] = ["freezer", "cpuacct"];

/// (mount point, version, controllers) of every mounted hierarchy.
pub(super) fn mounted() -> io::Result<Vec<(PathBuf, u8, Vec<String>)>> {
    let mut found = Vec::new();
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        let Some(point) = mount.split(' ').nth(4) else { continue };
        let mut kind = kind.split(' ');
        match (kind.next(), kind.nth(1)) {
            (Some("cgroup2"), _) => {
                let listed =
                    fs::read_to_string(Path::new(point).join("cgroup.controllers")).unwrap_or_default();
                found.push((point.into(), 2, listed.split_whitespace().map(str::to_owned).collect()));
            }
            (Some("cgroup"), Some(options)) => {
                let listed = options
                    .split(',')
                    .filter(|option| WANTED.contains(option))
                    .map(str::to_owned)
                    .collect::<Vec<_>>();
                if !listed.is_empty() {
                    found.push((point.into(), 1, listed));
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Our own group in the v1 hierarchy with one of `controllers`.
pub(super) fn own_group(controllers: &[String]) -> String {
    let table = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    table
        .lines()
        .find_map(|line| {
            let (names, path) = line.split_once(':')?.1.split_once(':')?;
            let ours = names.split(',').any(|name| controllers.iter().any(|c| c == name));
            ours.then(|| path.trim_start_matches('/').to_owned())
        })
        .unwrap_or_default()
}

/// Where each controller that we want is.
///
/// # Errors
/// When the mount table cannot be read.
pub fn detect() -> io::Result<Vec<Found>> {
    let mounted = mounted()?;
    let version_of = |controller: &'static str| {
        let versions = mounted.iter().filter(|(_, version, list)| {
            list.iter().any(|name| name == controller)
                || (*version == 2 && BUILT_IN.contains(&controller) && list.iter().any(|name| name == "cpu"))
        });
        versions.map(|(_, version, _)| *version).max().unwrap_or(0)
    };
    Ok(WANTED.into_iter().map(|controller| Found { controller, version: version_of(controller) }).collect())
}

pub(super) fn make(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

/// Hands controllers to the children of a v2 group. The host's root always can; the root of a cgroup namespace, such as
/// a container's, only once the processes in it have moved into a child of their own.
pub(super) fn enable_below(group: &Path, controllers: &[String]) -> io::Result<()> {
    let control = group.join("cgroup.subtree_control");
    let wanted: Vec<String> = controllers
        .iter()
        .filter(|name| !BUILT_IN.contains(&name.as_str()))
        .map(|name| format!("+{name}"))
        .collect();
    let enable = || fs::write(&control, wanted.join(" "));
    let mut enabled = enable();
    for _ in 0..MOVES {
        match &enabled {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                move_processes(group, &group.join("isopod-host"))?;
                enabled = enable();
            }
            _ => break,
        }
    }
    enabled
}

/// How often processes are moved out of a group in which others keep appearing.
const MOVES: u32 = 10;

fn move_processes(from: &Path, to: &Path) -> io::Result<()> {
    make(to)?;
    for pid in fs::read_to_string(from.join("cgroup.procs"))?.lines() {
        // One that has just ended, or that this namespace does not see, cannot be moved: the caller finds out.
        let _ = fs::write(to.join("cgroup.procs"), pid);
    }
    Ok(())
}
