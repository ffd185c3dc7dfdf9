//! A full disk, in a mount namespace of its own. Needs root; says so otherwise.

use super::*;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};
use std::fs;

#[test]
fn a_line_that_does_not_fit_is_not_there_at_all() {
    std::thread::spawn(|| {
        // SAFETY: a new mount namespace touches neither memory nor descriptors; file system attributes become this
        // thread's own, and the thread ends with the test.
        if let Err(error) = unsafe { unshare_unsafe(UnshareFlags::NEWNS) } {
            eprintln!("SKIPPED: a mount namespace needs root: {error}");
            return;
        }
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("private");
        let dir = tempfile::tempdir().expect("a directory");
        mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), c"size=1m").expect("mount");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(fill(dir.path()));
        unmount(dir.path(), UnmountFlags::DETACH).expect("unmount");
    })
    .join()
    .expect("the test's thread");
}

async fn fill(dir: &Path) {
    let (path, ballast) = (dir.join("records.wal"), dir.join("ballast"));
    let log = open(dir).await;
    log.start(started(0)).expect("start");
    let _ = fs::write(&ballast, vec![0; 2 << 20]);
    let mut written = 1;
    while log.event("fill", json!("x".repeat(300))).is_ok() {
        written += 1;
    }
    let whole = fs::read(&path).expect("read");
    assert!(whole.ends_with(b"\n"), "half a line is left");
    while log.event("fill", json!(1)).is_ok() {
        written += 1;
    }
    assert!(matches!(log.end(ended(0)), Err(Error::Internal { .. })));
    assert!(log.is_open(&id(0)), "an end that cannot be written may be tried again");
    assert!(log.flush().await.is_err());
    assert_eq!(log.waiting(), written);

    fs::remove_file(&ballast).expect("make room");
    log.end(ended(0)).expect("end");
    log.flush().await.expect("flush");
    assert_complete(&all_events(&log).await, written + 1);
    drop(log);
    assert_complete(&all_events(&open(dir).await).await, written + 1);
}
