//! Removing journals: of one exec, and of those that are too old or too many.

use super::layout::for_each;
use isopod_model::ExecId;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// What a sweep removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// The execs whose journals went, oldest first.
    pub execs: Vec<ExecId>,
    /// How many bytes those were.
    pub bytes: u64,
}

/// Deletes both journals of one exec; Ok when there are none. Its writers must have let go.
///
/// # Errors
/// The directory cannot be read or a file not be deleted.
pub fn remove(dir: &Path, exec: &ExecId) -> io::Result<()> {
    let mut paths = Vec::new();
    for_each(dir, |name, _| {
        if name.exec == *exec {
            paths.push(path(dir, &name));
        }
        Ok(())
    })?;
    paths.iter().try_for_each(|path| unlink(path))
}

/// How many bytes all journals in the directory hold together.
///
/// # Errors
/// The directory or its files cannot be read.
pub fn usage(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for_each(dir, |_, facts| {
        bytes += facts()?.len();
        Ok(())
    })?;
    Ok(bytes)
}

/// The journals of one exec.
struct Held {
    paths: Vec<PathBuf>,
    bytes: u64,
    written: SystemTime,
}

/// Removes the journals of execs that `may_go` lets go (those that have ended): all that were last written before
/// `older_than`, then the oldest until the directory holds at most `budget_bytes`.
///
/// # Errors
/// The directory or its files cannot be read, or a file not be deleted; what went before that is gone.
pub fn sweep(
    dir: &Path,
    budget_bytes: u64,
    older_than: SystemTime,
    mut may_go: impl FnMut(&ExecId) -> bool,
) -> io::Result<Swept> {
    // Ids sort by the time they were issued, so this map is in order of age.
    let mut journals: BTreeMap<ExecId, Held> = BTreeMap::new();
    for_each(dir, |name, facts| {
        let facts = facts()?;
        let written = facts.modified()?;
        let path = path(dir, &name);
        let held = journals.entry(name.exec).or_insert(Held { paths: Vec::new(), bytes: 0, written });
        held.paths.push(path);
        held.bytes += facts.len();
        held.written = held.written.max(written);
        Ok(())
    })?;
    let mut bytes: u64 = journals.values().map(|held| held.bytes).sum();
    let mut swept = Swept::default();
    let (old, young): (Vec<_>, Vec<_>) =
        journals.into_iter().partition(|(_, held)| held.written < older_than);
    let old_count = old.len();
    for (index, (exec, held)) in old.into_iter().chain(young).enumerate() {
        if (index >= old_count && bytes <= budget_bytes) || !may_go(&exec) {
            continue;
        }
        held.paths.iter().try_for_each(|path| unlink(path))?;
        bytes -= held.bytes;
        swept.bytes += held.bytes;
        swept.execs.push(exec);
    }
    Ok(swept)
}

fn path(dir: &Path, name: &super::layout::SegmentName) -> PathBuf {
    dir.join(super::layout::file_name(&name.exec, name.stream, name.start))
}

fn unlink(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
