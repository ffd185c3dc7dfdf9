//! Control groups: memory, cpu and pids of one container, on v1, v2 and hybrid hosts.
//!
//! Each controller is looked for by itself: in the v2 hierarchy if it is available there, else in its v1 hierarchy.
//! Groups are made below this process's own group of each hierarchy, in a directory per data directory, so that
//! nothing outside of it is ever touched.

use isopod_model::{Error, Result, limits::Limits};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// One mounted hierarchy that we use.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Hierarchy {
    /// Our directory in it: `<mount>/<own group>/isopod-<data directory>`.
    directory: PathBuf,
    version: u8,
    controllers: Vec<String>,
}

/// Our part of the host's control groups.
#[derive(Debug)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

/// What was found where; for `doctor`.
#[derive(Debug, Clone)]
pub struct Found {
    /// The controller.
    pub controller: &'static str,
    /// 1 or 2; 0 when it is nowhere.
    pub version: u8,
}

const WANTED: [&str; 5] = ["memory", "cpu", "pids", "freezer", "cpuacct"];
/// What v2 offers without a controller of that name.
const BUILT_IN: [&str; 2] = ["freezer", "cpuacct"];

/// (mount point, version, controllers) of every mounted hierarchy.
fn mounted() -> io::Result<Vec<(PathBuf, u8, Vec<String>)>> {
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

/// Our own group in the hierarchy with one of `controllers` (v1) or in v2.
fn own_group(version: u8, controllers: &[String]) -> String {
    let table = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    table
        .lines()
        .find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
            let ours = if version == 2 {
                number == "0"
            } else {
                names.split(',').any(|name| controllers.iter().any(|c| c == name))
            };
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

impl Cgroups {
    /// Finds the hierarchies and makes our directory (named by `key`) in each. `memo` is a file that remembers where they
    /// are: a server that is started from another session finds the groups of containers that outlived the last one.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when memory, cpu or pids cannot be limited here.
    pub fn open(key: &str, memo: Option<&Path>) -> Result<Self> {
        let remembered = memo.and_then(|memo| fs::read(memo).ok());
        if let Some(hierarchies) =
            remembered.and_then(|text| serde_json::from_slice::<Vec<Hierarchy>>(&text).ok())
            && !hierarchies.is_empty()
            && hierarchies.iter().all(|ours| ours.directory.is_dir())
        {
            return Ok(Self { hierarchies });
        }
        let made = Self::make(key)?;
        if let Some(memo) = memo {
            let text = serde_json::to_vec(&made.hierarchies).map_err(Error::internal)?;
            fs::write(memo, text).map_err(Error::internal)?;
        }
        Ok(made)
    }

    fn make(key: &str) -> Result<Self> {
        let refuse = |reason: String| Error::Unavailable { reason: format!("control groups: {reason}") };
        let mut hierarchies = Vec::new();
        let mut missing: Vec<&str> = WANTED.to_vec();
        let mut mounted = mounted().map_err(|error| refuse(error.to_string()))?;
        mounted.sort_by_key(|(_, version, _)| std::cmp::Reverse(*version));
        for (mount, version, listed) in mounted {
            let mut controllers: Vec<String> =
                listed.into_iter().filter(|name| missing.contains(&name.as_str())).collect();
            if controllers.is_empty() {
                continue;
            }
            let parent = mount.join(own_group(version, &controllers));
            let directory = parent.join(format!("isopod-{key}"));
            if version == 2 {
                controllers.extend(BUILT_IN.map(str::to_owned));
                enable_below(&parent, &controllers)
                    .map_err(|error| refuse(format!("{}: {error}", parent.display())))?;
            }
            make(&directory).map_err(|error| refuse(format!("{}: {error}", directory.display())))?;
            if version == 2 {
                enable_below(&directory, &controllers)
                    .map_err(|error| refuse(format!("{}: {error}", directory.display())))?;
            }
            missing.retain(|name| !controllers.iter().any(|had| had == name));
            hierarchies.push(Hierarchy { directory, version, controllers });
        }
        missing.retain(|name| !BUILT_IN.contains(name));
        if missing.is_empty() {
            Ok(Self { hierarchies })
        } else {
            Err(refuse(format!(
                "no controller for {}; mount cgroup v2, or v1 with these",
                missing.join(", ")
            )))
        }
    }

    /// Makes a container's groups, without limits yet.
    ///
    /// # Errors
    /// The file operation's.
    pub fn create(&self, name: &str) -> io::Result<Cgroup> {
        let places: Vec<Hierarchy> = self
            .hierarchies
            .iter()
            .map(|ours| Hierarchy { directory: ours.directory.join(name), ..ours.clone() })
            .collect();
        for place in &places {
            make(&place.directory)?;
        }
        Ok(Cgroup { places })
    }

    /// The groups of a container that runs already.
    pub fn adopt(&self, name: &str) -> Cgroup {
        let at = |ours: &Hierarchy| Hierarchy { directory: ours.directory.join(name), ..ours.clone() };
        Cgroup { places: self.hierarchies.iter().map(at).collect() }
    }

    /// Names of all containers' groups that exist.
    pub fn list(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .hierarchies
            .iter()
            .filter_map(|ours| fs::read_dir(&ours.directory).ok())
            .flat_map(|entries| entries.flatten())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Our directory in each hierarchy.
    ///
    /// # Errors
    /// The file operation's.
    pub fn directories(&self) -> io::Result<Vec<OwnedFd>> {
        self.hierarchies.iter().map(|ours| File::open(&ours.directory).map(OwnedFd::from)).collect()
    }

    /// Removes our directories; those that still hold groups stay.
    pub fn close(&self) {
        for ours in &self.hierarchies {
            let _ = fs::remove_dir(&ours.directory);
        }
    }
}

fn make(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

/// Hands controllers to the children of a v2 group. A group with processes of its own cannot (unless it is the root):
/// then this process moves into a child of it first, as systemd's `Delegate=yes` allows.
fn enable_below(group: &Path, controllers: &[String]) -> io::Result<()> {
    let control = group.join("cgroup.subtree_control");
    let wanted: Vec<String> = controllers
        .iter()
        .filter(|name| !BUILT_IN.contains(&name.as_str()))
        .map(|name| format!("+{name}"))
        .collect();
    match fs::write(&control, wanted.join(" ")) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let leaf = group.join("isopod-server");
            make(&leaf)?;
            fs::write(leaf.join("cgroup.procs"), "0")?;
            fs::write(&control, wanted.join(" "))
        }
        done => done,
    }
}

/// The groups of one container.
#[derive(Debug, Clone)]
pub struct Cgroup {
    places: Vec<Hierarchy>,
}

impl Cgroup {
    fn place(&self, controller: &str) -> Option<&Hierarchy> {
        self.places.iter().find(|place| place.controllers.iter().any(|name| name == controller))
    }

    fn write(&self, controller: &str, v1: &str, v2: &str, value: &str) -> io::Result<()> {
        let place = self.place(controller).ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        fs::write(place.directory.join(if place.version == 1 { v1 } else { v2 }), value)
    }

    fn read(&self, controller: &str, v1: &str, v2: &str) -> io::Result<String> {
        let place = self.place(controller).ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        fs::read_to_string(place.directory.join(if place.version == 1 { v1 } else { v2 }))
    }

    /// Puts limits in force.
    ///
    /// # Errors
    /// The file operation's.
    pub fn limit(&self, limits: &Limits) -> io::Result<()> {
        let memory = (limits.memory_mib << 20).to_string();
        self.write("memory", "memory.limit_in_bytes", "memory.max", &memory)?;
        // Where there is no swap accounting there is nothing to limit.
        let no_swap =
            if self.place("memory").is_some_and(|place| place.version == 1) { memory.as_str() } else { "0" };
        let _ = self.write("memory", "memory.memsw.limit_in_bytes", "memory.swap.max", no_swap);
        self.write("pids", "pids.max", "pids.max", &limits.pids.to_string())?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be small and positive"
        )]
        let quota = ((limits.cpus * 100_000.0) as u64).max(1000);
        self.write("cpu", "cpu.cfs_quota_us", "cpu.max", &quota.to_string())?;
        // Unused time of one period (100 ms) may be used in the next, so that short commands are not throttled.
        let _ = self.write("cpu", "cpu.cfs_burst_us", "cpu.max.burst", &quota.to_string());
        Ok(())
    }

    /// What a process writes `0` into, or is born into, to join: a v2 directory and v1 `tasks` files.
    ///
    /// # Errors
    /// The file operation's.
    pub fn doors(&self) -> io::Result<(Option<OwnedFd>, Vec<OwnedFd>)> {
        let mut born_into = None;
        let mut tasks = Vec::new();
        for place in &self.places {
            if place.version == 2 {
                born_into = Some(File::open(&place.directory)?.into());
            } else {
                tasks.push(File::options().write(true).open(place.directory.join("tasks"))?.into());
            }
        }
        Ok((born_into, tasks))
    }

    /// How often the kernel has killed for want of memory in this group.
    pub fn oom_kills(&self) -> u64 {
        let text = self.read("memory", "memory.oom_control", "memory.events").unwrap_or_default();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "))
            .and_then(|value| value.trim().parse().ok());
        value.unwrap_or(0)
    }

    fn number(&self, controller: &str, v1: &str, v2: &str) -> u64 {
        self.read(controller, v1, v2).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Memory in use, in bytes.
    pub fn memory(&self) -> u64 {
        self.number("memory", "memory.usage_in_bytes", "memory.current")
    }

    /// The most memory that was in use, in bytes.
    pub fn memory_peak(&self) -> u64 {
        self.number("memory", "memory.max_usage_in_bytes", "memory.peak")
    }

    /// Processor time used, in microseconds.
    pub fn cpu_us(&self) -> u64 {
        let text = self.read("cpuacct", "cpuacct.usage", "cpu.stat").unwrap_or_default();
        match text.trim().parse::<u64>() {
            Ok(nanoseconds) => nanoseconds / 1000,
            Err(_) => {
                let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
                line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
            }
        }
    }

    /// Processes and threads.
    pub fn pids(&self) -> u64 {
        self.number("pids", "pids.current", "pids.current")
    }

    /// Freezes or thaws all processes.
    ///
    /// # Errors
    /// `Unsupported` where there is no freezer; else the file operation's.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        let place = self.place("freezer").ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        let (file, value) = match (place.version, frozen) {
            (1, true) => ("freezer.state", "FROZEN"),
            (1, false) => ("freezer.state", "THAWED"),
            (_, true) => ("cgroup.freeze", "1"),
            (_, false) => ("cgroup.freeze", "0"),
        };
        fs::write(place.directory.join(file), value)
    }

    /// Removes the groups; `Err` while a process is left in one.
    ///
    /// # Errors
    /// The file operation's; groups that are gone already are no error.
    pub fn remove(&self) -> io::Result<()> {
        let mut result = Ok(());
        for place in &self.places {
            match fs::remove_dir(&place.directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => result = Err(error),
                _ => {}
            }
        }
        result
    }

    /// Kills whatever is left in the groups; for sweeping after a crash.
    pub fn kill(&self) {
        let _ = self.freeze(false);
        for place in &self.places {
            for line in fs::read_to_string(place.directory.join("cgroup.procs")).unwrap_or_default().lines() {
                if let Some(pid) = line.parse().ok().and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isopod_model::limits::InstanceType;

    #[test]
    fn groups_are_made_limited_and_removed() {
        let ours = Cgroups::open("test-groups", None).expect("as root on a host with control groups");
        let group = ours.create("s1").expect("create");
        group.limit(&InstanceType::Lite.limits()).expect("limit");
        let limit = group.read("memory", "memory.limit_in_bytes", "memory.max").expect("read back");
        assert_eq!(limit.trim(), (256u64 << 20).to_string());
        assert_eq!(group.oom_kills(), 0);
        assert_eq!(ours.list(), ["s1"]);
        group.remove().expect("empty");
        ours.close();
        assert!(ours.list().is_empty());
    }
}
