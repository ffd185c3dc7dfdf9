//! Control groups: memory, cpu and pids of one container, on v1, v2 and hybrid hosts.
//!
//! Each controller is looked for by itself: in the v2 hierarchy if it is available there, else in its v1 hierarchy.
//! Groups are made in a directory per data directory: in v1 below this process's own group; in v2 at the top, because
//! a group that holds processes, as that of a login session or a service does, can have no groups with limits below it.

mod hierarchy;

pub use hierarchy::{Found, detect};

use hierarchy::{BUILT_IN, WANTED, enable_below, make, mounted, own_group};
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
    /// Our directory in it: `<mount>/[<own group>/]isopod-<data directory>`.
    directory: PathBuf,
    version: u8,
    controllers: Vec<String>,
}

/// Our part of the host's control groups.
#[derive(Debug)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
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
            let parent = if version == 2 { mount } else { mount.join(own_group(&controllers)) };
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
            if place.version == 2 && fs::write(place.directory.join("cgroup.kill"), "1").is_ok() {
                continue;
            }
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
