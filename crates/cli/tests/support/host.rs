//! The host as far as one data directory touches it: what must be as before when everything is over.

use super::until_within;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long removals in the background may take.
const SETTLED: Duration = Duration::from_secs(60);

/// One data directory on this host.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    data: PathBuf,
    group: String,
}

/// What there is of it. Things that are pooled have no fixed names, so they are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Lines of the host's mount table that name the data directory.
    pub(crate) mounts: Vec<String>,
    /// How many mounts the launcher has.
    pub(crate) launcher_mounts: usize,
    /// Control groups: how many in which hierarchy.
    pub(crate) groups: BTreeMap<PathBuf, usize>,
    /// Loop devices on files of the data directory.
    pub(crate) loops: usize,
    /// Names of processes, sorted.
    pub(crate) processes: Vec<String>,
    /// Network namespaces that those processes are in or hold.
    pub(crate) namespaces: usize,
    /// Directories on the volume.
    pub(crate) subvolumes: usize,
    /// Paths in the data directory.
    pub(crate) tree: BTreeSet<PathBuf>,
    /// Open descriptors of the launcher.
    pub(crate) launcher_descriptors: usize,
    /// What the server has open, apart from connections and its database, and how often.
    pub(crate) server_descriptors: BTreeMap<String, usize>,
}

impl State {
    /// The lines in which two states differ.
    fn differences(&self, before: &Self) -> String {
        let (now, before) = (format!("{self:#?}"), format!("{before:#?}"));
        let only = |these: &str, those: &str, mark: &str| {
            let others: BTreeSet<&str> = those.lines().collect();
            let lines = these.lines().filter(|line| !others.contains(line));
            lines.map(|line| format!("{mark} {line}\n")).collect::<String>()
        };
        only(&now, &before, "now   ") + &only(&before, &now, "before")
    }
}

/// A process of ours.
#[derive(Debug, Clone)]
struct Process {
    pid: u32,
    name: String,
}

impl Host {
    pub(crate) fn of(data: &Path) -> Self {
        let data = fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
        let digest = Sha256::digest(data.as_os_str().as_encoded_bytes());
        let key: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { data, group: format!("isopod-{key}") }
    }

    /// What there is now.
    pub(crate) fn state(&self) -> State {
        let processes = self.processes();
        let launcher = processes.iter().find(|process| process.name == "isopod-launcher");
        let server = processes.iter().find(|process| process.name == "isopod");
        let in_launcher = |path: &str| launcher.map(|process| format!("/proc/{}/{path}", process.pid));
        let lines = |path: Option<String>| {
            path.and_then(|path| fs::read_to_string(path).ok()).map_or(0, |text| text.lines().count())
        };
        let entries = |path: Option<String>| path.map_or(0, |path| list(Path::new(&path)).len());
        let mut names: Vec<String> = processes.iter().map(|process| process.name.clone()).collect();
        names.sort();
        State {
            mounts: self.mounts(),
            launcher_mounts: lines(in_launcher("mountinfo")),
            groups: self.groups().into_iter().map(|group| (group.clone(), list(&group).len())).collect(),
            loops: self.loops(),
            processes: names,
            namespaces: namespaces(&processes),
            subvolumes: entries(in_launcher("cwd/volume")),
            tree: self.tree(),
            launcher_descriptors: launcher.map_or(0, |process| descriptors(process.pid).len()),
            server_descriptors: server.map(|process| opened(process.pid)).unwrap_or_default(),
        }
    }

    /// Waits until everything is as it was.
    pub(crate) async fn assert_as_before(&self, before: &State) {
        let began = Instant::now();
        loop {
            let now = self.state();
            if now == *before {
                return;
            }
            assert!(
                began.elapsed() < SETTLED,
                "after {SETTLED:?} the host is not as before:\n{}",
                now.differences(before)
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until two looks, half a second apart, find the same: pools are full, removals are over.
    pub(crate) async fn settled(&self) -> State {
        let mut last = self.state();
        let mut same_since = Instant::now();
        until_within(SETTLED, "quiet host", async || {
            let now = self.state();
            if now != last {
                (last, same_since) = (now, Instant::now());
            }
            (same_since.elapsed() > Duration::from_millis(500)).then(|| last.clone())
        })
        .await
    }

    /// Waits until no process, mount, control group or loop device is left; files are not looked at.
    pub(crate) async fn assert_gone(&self) {
        let began = Instant::now();
        loop {
            let now = State { tree: BTreeSet::new(), ..self.state() };
            if now == State::default() {
                return;
            }
            assert!(
                began.elapsed() < SETTLED,
                "after {SETTLED:?} there is left:\n{}",
                now.differences(&State::default())
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The launcher's process id.
    pub(crate) fn launcher(&self) -> Option<u32> {
        self.processes()
            .into_iter()
            .find(|process| process.name == "isopod-launcher")
            .map(|process| process.pid)
    }

    /// Process ids of agents.
    pub(crate) fn agents(&self) -> Vec<u32> {
        self.pids_named("isopod-agent")
    }

    /// Process ids of our processes of that name.
    pub(crate) fn pids_named(&self, name: &str) -> Vec<u32> {
        let all = self.processes().into_iter();
        all.filter(|process| process.name == name).map(|process| process.pid).collect()
    }

    /// Whether there are sandboxes and all their processes are frozen.
    pub(crate) fn all_frozen(&self) -> bool {
        let said: Vec<String> = self
            .groups()
            .iter()
            .flat_map(|group| list(group))
            .filter(|group| fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|pids| !pids.is_empty()))
            .filter_map(|group| {
                let v1 = fs::read_to_string(group.join("freezer.state"));
                v1.or_else(|_| fs::read_to_string(group.join("cgroup.events"))).ok()
            })
            .collect();
        !said.is_empty() && said.iter().all(|text| text.contains("FROZEN") || text.contains("frozen 1"))
    }

    /// How many processes are in control groups of this data directory, or were started for it.
    pub(crate) fn process_count(&self) -> usize {
        self.processes().len()
    }

    fn processes(&self) -> Vec<Process> {
        let wanted = self.data.as_os_str().as_encoded_bytes();
        let ours = |pid: u32| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let group = format!("/{}/", self.group);
            read("cmdline").split(|byte| *byte == 0).any(|argument| argument == wanted)
                || String::from_utf8_lossy(&read("cgroup")).contains(&group)
        };
        let pids = list(Path::new("/proc"))
            .into_iter()
            .filter_map(|entry| entry.file_name()?.to_str()?.parse().ok());
        pids.filter(|pid| ours(*pid))
            .map(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                Process { pid, name: name.trim_end().to_owned() }
            })
            .collect()
    }

    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("a mount table");
        let data = self.data.to_string_lossy().into_owned();
        table.lines().filter(|line| line.contains(&data)).map(str::to_owned).collect()
    }

    /// Our directory in each hierarchy of control groups, wherever this test's own group is.
    fn groups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for hierarchy in
            list(Path::new("/sys/fs/cgroup")).into_iter().chain([PathBuf::from("/sys/fs/cgroup")])
        {
            find_named(&hierarchy, &self.group, 4, &mut found);
        }
        found.sort();
        found.dedup();
        found
    }

    fn loops(&self) -> usize {
        let backing =
            |device: &Path| fs::read_to_string(device.join("loop/backing_file")).unwrap_or_default();
        let devices = list(Path::new("/sys/block"));
        devices.iter().filter(|device| backing(device).starts_with(&*self.data.to_string_lossy())).count()
    }

    fn tree(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        walk(&self.data, &self.data, &mut found);
        found
    }

    /// Ends every process and removes every group, whatever state they are in.
    pub(crate) fn end_everything(&self) {
        for _ in 0..300 {
            for group in self.groups() {
                for child in list(&group) {
                    // A frozen process does not die.
                    let _ = fs::write(child.join("freezer.state"), "THAWED");
                }
            }
            let processes = self.processes();
            for process in &processes {
                super::kill(process.pid, rustix::process::Signal::KILL);
            }
            for group in self.groups() {
                list(&group).iter().for_each(|child| drop(fs::remove_dir(child)));
                let _ = fs::remove_dir(&group);
            }
            if processes.is_empty() && self.groups().is_empty() && self.loops() == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("something of {} stays behind: {:#?}", self.data.display(), self.state());
    }
}

/// Directories and files in a directory; none when it cannot be read.
fn list(directory: &Path) -> Vec<PathBuf> {
    let directories_only = directory.starts_with("/sys/fs/cgroup");
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| !directories_only || entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn find_named(directory: &Path, name: &str, depth: u32, found: &mut Vec<PathBuf>) {
    for entry in list(directory) {
        if entry.file_name().is_some_and(|file| file == name) {
            found.push(entry);
        } else if depth > 0 {
            find_named(&entry, name, depth - 1, found);
        }
    }
}

fn walk(root: &Path, directory: &Path, found: &mut BTreeSet<PathBuf>) {
    for path in list(directory) {
        let below = path.strip_prefix(root).expect("below").to_owned();
        // SQLite makes and removes these as it likes; the template is made once.
        let name = below.to_string_lossy();
        if name.ends_with("-wal") || name.ends_with("-shm") || name.starts_with("templates") {
            continue;
        }
        if path.is_dir() && !path.is_symlink() {
            walk(root, &path, found);
        }
        found.insert(below);
    }
}

fn descriptors(pid: u32) -> Vec<String> {
    let links = list(Path::new(&format!("/proc/{pid}/fd")));
    links.iter().filter_map(|link| Some(fs::read_link(link).ok()?.to_string_lossy().into_owned())).collect()
}

fn opened(pid: u32) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for target in descriptors(pid) {
        // Numbers of the kernel's own say nothing.
        let kind = target.split(":[").next().unwrap_or_default().to_owned();
        if kind != "socket" && !kind.contains("isopod.db") {
            *found.entry(kind).or_default() += 1;
        }
    }
    found
}

fn namespaces(processes: &[Process]) -> usize {
    let mut found = BTreeSet::new();
    for process in processes {
        let own = fs::read_link(format!("/proc/{}/ns/net", process.pid)).ok();
        found.extend(own.map(|link| link.to_string_lossy().into_owned()));
        found.extend(descriptors(process.pid).into_iter().filter(|target| target.starts_with("net:")));
    }
    found.len()
}
