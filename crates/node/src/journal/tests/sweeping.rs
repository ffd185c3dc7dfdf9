//! Tests of what is kept and what goes.

#![expect(clippy::disallowed_methods, reason = "files have the times of the system's clock")]

use super::*;
use crate::journal::{remove, sweep, usage};
use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

fn journals(dir: &Path, count: u32) {
    let (read, mut write) = pipe();
    for number in 0..count {
        for stream in [OUT, ERR] {
            let mut writer = JournalWriter::create(dir, &exec(number), stream, 4096).expect("create");
            feed(&mut writer, &read, &mut write, &sequence(0..500));
        }
    }
}

#[test]
fn one_exec_goes_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    journals(dir.path(), 3);
    let strangers = ["notes.txt", "ex00000000000000000001.out.01", "ex00000000000000000001.log.0"];
    for stranger in strangers {
        fs::write(dir.path().join(stranger), "x").expect("write");
    }
    assert_eq!(usage(dir.path()).expect("usage"), 3000);
    remove(dir.path(), &exec(1)).expect("remove");
    remove(dir.path(), &exec(1)).expect("again");
    assert_eq!(usage(dir.path()).expect("usage"), 2000);
    assert!(strangers.iter().all(|stranger| dir.path().join(stranger).exists()));
    assert_eq!(usage(&dir.path().join("none")).expect("usage"), 0);
}

#[test]
fn a_sweep_takes_the_old_then_the_oldest_until_the_budget_holds() {
    let dir = tempfile::tempdir().expect("a directory");
    journals(dir.path(), 6);
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    for stream in ["out", "err"] {
        let path = dir.path().join(format!("{}.{stream}.0", exec(4)));
        fs::File::options().write(true).open(path).and_then(|file| file.set_modified(long_ago)).expect("age");
    }
    let cutoff = SystemTime::now() - Duration::from_secs(60);
    let running = exec(0);
    let swept = sweep(dir.path(), 3000, cutoff, |id| *id != running).expect("sweep");
    assert_eq!(swept.execs, [exec(4), exec(1), exec(2)]);
    assert_eq!(swept.bytes, 3000);
    assert_eq!(usage(dir.path()).expect("usage"), 3000);
    let swept = sweep(dir.path(), 0, SystemTime::now() + Duration::from_secs(60), |_| false).expect("sweep");
    assert!(swept.execs.is_empty(), "what may not go stays");
}
