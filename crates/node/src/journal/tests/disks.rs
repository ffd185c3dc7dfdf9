//! Full disks and the file systems that matter, each in a mount namespace of its own. Needs root; says so otherwise.

use super::*;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};
use std::{ffi::CString, fs, path::Path, process::Command, thread};

/// Runs `test` on a thread that has its own mount namespace; nothing of it is seen outside.
fn in_private_namespace(test: impl FnOnce(&Path) + Send + 'static) {
    thread::spawn(move || {
        // SAFETY: a new mount namespace touches neither memory nor descriptors; file system attributes become this
        // thread's own, and the thread ends with the test.
        if let Err(error) = unsafe { unshare_unsafe(UnshareFlags::NEWNS) } {
            eprintln!("SKIPPED: a mount namespace needs root: {error}");
            return;
        }
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("private");
        let dir = tempfile::tempdir().expect("a directory");
        test(dir.path());
        let _ = rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH);
    })
    .join()
    .expect("the test's thread");
}

fn mount_tmpfs(dir: &Path, options: &str) {
    let options = CString::new(options).expect("no NUL");
    mount("tmpfs", dir, "tmpfs", MountFlags::empty(), options.as_c_str()).expect("mount tmpfs");
}

/// Mounts a fresh file system from an image beside `dir`; false when this host has no tools for it.
fn mount_image(dir: &Path, kind: &str, mib: u64) -> bool {
    let image = tempfile::NamedTempFile::new().expect("an image");
    image.as_file().set_len(mib << 20).expect("size");
    let made = Command::new(format!("mkfs.{kind}")).arg("-q").arg(image.path()).output();
    let mounted = made.is_ok_and(|made| made.status.success())
        && Command::new("mount")
            .args(["-t", kind, "-o", "loop"])
            .args([image.path(), dir])
            .status()
            .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("SKIPPED: {kind} cannot be made or mounted here");
    }
    mounted
}

/// Odd offsets, whole pages, page borders, and going on in a file from an earlier writer.
fn splices_rightly(dir: &Path) {
    let (read, mut write) = pipe();
    let mut total = 0;
    let mut writer = JournalWriter::create(dir, &exec(1), OUT, 80_000).expect("create");
    for (round, length) in
        [1, 4095, 4096, 1, 8191, 3, 30_000, 4097, 12_345, 65_536, 5].into_iter().enumerate()
    {
        feed(&mut writer, &read, &mut write, &sequence(total..total + length));
        total += length;
        if round % 2 == 1 {
            writer = JournalWriter::open(dir, &exec(1), OUT, 80_000).expect("open");
        }
        assert_eq!((writer.total(), writer.lost()), (total, 0));
    }
    let ranges = held(&JournalReader::new(dir, &exec(1), OUT), total, 10_000);
    assert_eq!(ranges.len(), 2);
    for (start, data) in ranges {
        assert!(data == sequence(start..start + data.len() as u64), "the content at {start} differs");
    }
}

/// Fills the disk with one exec's output, makes room, and goes on.
fn survives_a_full_disk(dir: &Path, size: u64) {
    let ballast = dir.join("ballast");
    fs::write(&ballast, vec![0; usize::try_from(size / 4).expect("small")]).expect("room for the ballast");
    let (read, mut write) = pipe();
    let mut writer = JournalWriter::create(dir, &exec(1), OUT, 64 << 20).expect("create");
    let mut total = 0;
    // The guest's writer never blocks: `feed` fails when the pipe stays full.
    while total < 2 * size {
        feed(&mut writer, &read, &mut write, &sequence(total..total + 30_011));
        total += 30_011;
    }
    assert_eq!(writer.total(), total);
    let fault = writer.fault().expect("the disk was full");
    assert!(matches!(fault.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)), "{fault}");
    let lost = writer.lost();
    assert!(lost >= size / 4, "{lost} of {total} lost");

    fs::remove_file(&ballast).expect("make room");
    feed(&mut writer, &read, &mut write, &sequence(total..total + 50_000));
    total += 50_000;
    assert_eq!(writer.lost(), lost, "nothing is lost once there is room");

    let reader = JournalReader::new(dir, &exec(1), OUT);
    let reopened = JournalWriter::open(dir, &exec(1), OUT, 64 << 20).expect("open");
    assert_eq!((reader.total().expect("total"), reopened.total()), (total, total));
    let ranges = held(&reader, total, 1 << 20);
    let there: u64 = ranges.iter().map(|(_, data)| data.len() as u64).sum();
    assert_eq!(there, total - lost);
    for (start, data) in &ranges {
        assert!(*data == sequence(*start..start + data.len() as u64), "the content at {start} differs");
    }
    assert_eq!(ranges.last().map(|(start, data)| start + data.len() as u64), Some(total));
}

#[test]
fn splice_writes_where_it_should_here() {
    splices_rightly(tempfile::tempdir().expect("a directory").path());
}

#[test]
fn tmpfs() {
    in_private_namespace(|dir| {
        mount_tmpfs(dir, "size=2m");
        splices_rightly(dir);
        super::super::remove(dir, &exec(1)).expect("remove");
        survives_a_full_disk(dir, 2 << 20);
    });
}

#[test]
fn btrfs() {
    in_private_namespace(|dir| {
        if mount_image(dir, "btrfs", 128) {
            splices_rightly(dir);
            super::super::remove(dir, &exec(1)).expect("remove");
        }
    });
}

#[test]
fn ext4() {
    in_private_namespace(|dir| {
        if mount_image(dir, "ext4", 16) {
            splices_rightly(dir);
            super::super::remove(dir, &exec(1)).expect("remove");
            survives_a_full_disk(dir, 14 << 20);
        }
    });
}

/// No file can be made at all: the guest still never blocks, and there are no leftovers.
#[test]
fn no_inodes() {
    in_private_namespace(|dir| {
        mount_tmpfs(dir, "size=2m,nr_inodes=1");
        let (read, mut write) = pipe();
        let mut writer = JournalWriter::create(dir, &exec(1), OUT, 1 << 20).expect("create");
        feed(&mut writer, &read, &mut write, &sequence(0..500_000));
        assert_eq!((writer.total(), writer.lost()), (500_000, 500_000));
        let piece = JournalReader::new(dir, &exec(1), OUT).read(0, 100, 500_000).expect("read");
        assert_eq!((piece.start, piece.data.len()), (500_000, 0));
    });
}

/// A disk that flaps leaves few files.
#[test]
fn a_flapping_disk() {
    in_private_namespace(|dir| {
        mount_tmpfs(dir, "size=1m");
        let ballast = dir.join("ballast");
        let (read, mut write) = pipe();
        let mut writer = JournalWriter::create(dir, &exec(1), OUT, 4 << 20).expect("create");
        for round in 0..40 {
            let _ = fs::write(&ballast, vec![0; 2 << 20]);
            feed(&mut writer, &read, &mut write, &sequence(round * 20_000..round * 20_000 + 10_000));
            fs::remove_file(&ballast).expect("make room");
            feed(&mut writer, &read, &mut write, &sequence(round * 20_000 + 10_000..(round + 1) * 20_000));
        }
        assert_eq!(writer.total(), 800_000);
        let files = fs::read_dir(dir).expect("list").count();
        assert!((8..=16).contains(&files), "{files} files");
        for (start, data) in held(&JournalReader::new(dir, &exec(1), OUT), 800_000, 7_000) {
            assert!(data == sequence(start..start + data.len() as u64), "the content at {start} differs");
        }
    });
}
