//! Real volumes on the real kernel; these tests need root.

use super::{Subvolumes, mount};
use rustix::fs::{Mode, OFlags, openat};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const MEBIBYTE: u64 = 1 << 20;
const SIZE: u64 = 2 << 30;

fn volume() -> (TempDir, Subvolumes) {
    let directory = tempfile::tempdir().unwrap();
    let root = mount(&directory.path().join("volume.img"), SIZE).unwrap();
    (directory, Subvolumes::new(root).unwrap())
}

fn create_file(directory: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    Ok(openat(directory, name, flags, Mode::from(0o644))?.into())
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EDQUOT | libc::ENOSPC))
}

/// Writes until the quota stops it; gives what could be written.
fn fill(directory: &OwnedFd, name: &str) -> u64 {
    let mut file = create_file(directory, name).unwrap();
    let mut written = 0;
    loop {
        match file
            .write_all(&[7; 1 << 16])
            .and_then(|()| if written % (8 << 20) == 0 { file.sync_data() } else { Ok(()) })
        {
            Ok(()) => written += 1 << 16,
            Err(error) => {
                assert!(is_full(&error), "{error}");
                return written;
            }
        }
        assert!(written < SIZE, "nothing stops this writer");
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

fn attached(image: &Path) -> usize {
    let devices = fs::read_dir("/sys/block")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("loop/backing_file")).ok());
    devices.filter(|backing| Path::new(backing.trim_end()) == image).count()
}

#[test]
fn data_stops_at_the_limit_and_the_neighbour_goes_on() {
    let (_directory, volume) = volume();
    let greedy = volume.create("greedy", 32 * MEBIBYTE).unwrap();
    let neighbour = volume.create("neighbour", 32 * MEBIBYTE).unwrap();
    let written = fill(&greedy, "fill");
    assert!((24 * MEBIBYTE..=32 * MEBIBYTE).contains(&written), "{written} bytes went in");
    assert!((24 * MEBIBYTE..=32 * MEBIBYTE).contains(&volume.usage("greedy").unwrap()));

    let mut file = create_file(&neighbour, "file").unwrap();
    file.write_all(&vec![1; 16 << 20]).unwrap();
    file.sync_all().unwrap();
    assert!(volume.usage("neighbour").unwrap() >= 16 * MEBIBYTE);

    volume.set_limit("greedy", 64 * MEBIBYTE).unwrap();
    assert!(fill(&greedy, "more") >= 24 * MEBIBYTE, "a raised limit gives room");
}

#[test]
fn a_full_sandbox_can_delete_and_write_again() {
    let (_directory, volume) = volume();
    let sandbox = volume.create("sandbox", 16 * MEBIBYTE).unwrap();
    fill(&sandbox, "fill");
    rustix::fs::unlinkat(&sandbox, "fill", rustix::fs::AtFlags::empty()).unwrap();
    rustix::fs::syncfs(&sandbox).unwrap();
    assert!(fill(&sandbox, "again") >= 8 * MEBIBYTE);
}

#[test]
fn empty_files_stop_at_the_limit_too() {
    let (_directory, volume) = volume();
    let greedy = volume.create("greedy", 8 * MEBIBYTE).unwrap();
    let neighbour = volume.create("neighbour", 8 * MEBIBYTE).unwrap();
    let stopped = (0..1_000_000).find_map(|number| create_file(&greedy, &format!("{number:07}")).err());
    let error = stopped.expect("a million empty files do not fit into 8 MiB");
    assert!(is_full(&error), "{error}");
    assert!(volume.usage("greedy").unwrap() <= 9 * MEBIBYTE);
    create_file(&neighbour, "file").unwrap();
}

#[test]
fn deleting_does_not_walk_and_gives_space_and_group_back() {
    let (_directory, volume) = volume();
    let sandbox = volume.create("sandbox", 256 * MEBIBYTE).unwrap();
    let mut file = create_file(&sandbox, "file").unwrap();
    (0..210).for_each(|_| file.write_all(&[1; 1 << 20]).unwrap());
    for number in 0..2000 {
        create_file(&sandbox, &format!("{number}")).unwrap();
    }
    rustix::fs::syncfs(&sandbox).unwrap();
    let free = || rustix::fs::fstatvfs(volume.root()).unwrap().f_bavail * 4096;
    let before = free();
    let groups = || fs::read_dir(&volume.quota_groups).unwrap().count();
    let groups_before = groups();
    volume.delete("sandbox").unwrap();
    assert_eq!(volume.list().unwrap(), Vec::<String>::new());
    assert_eq!(volume.open("sandbox").unwrap_err().kind(), io::ErrorKind::NotFound);
    drop((file, sandbox));
    eventually("the space comes back", || {
        rustix::fs::syncfs(volume.root()).unwrap();
        free() >= before + 200 * MEBIBYTE
    });
    eventually("the quota group is gone", || {
        rustix::fs::syncfs(volume.root()).unwrap();
        volume.remove_leftover(usize::MAX);
        groups() < groups_before
    });
}

#[test]
fn two_volumes_at_once_and_nothing_is_left() {
    let (one, two) = (volume(), volume());
    let images = [one.0.path().join("volume.img"), two.0.path().join("volume.img")];
    for (number, volume) in [&one.1, &two.1].into_iter().enumerate() {
        let sandbox = volume.create("sandbox", 8 * MEBIBYTE).unwrap();
        writeln!(create_file(&sandbox, "file").unwrap(), "{number}").unwrap();
    }
    for image in &images {
        assert_eq!(attached(image), 1);
    }
    drop((one.1, two.1));
    for image in &images {
        eventually("the loop device is free", || attached(image) == 0);
    }
    for (number, image) in images.iter().enumerate() {
        let volume = Subvolumes::new(mount(image, SIZE).unwrap()).unwrap();
        let sandbox = volume.open("sandbox").unwrap();
        let mut text = String::new();
        let file = openat(&sandbox, "file", OFlags::RDONLY, Mode::empty()).unwrap();
        io::Read::read_to_string(&mut File::from(file), &mut text).unwrap();
        assert_eq!(text, format!("{number}\n"), "files outlive their mount");
    }
    for image in &images {
        eventually("the loop device is free", || attached(image) == 0);
    }
}

#[test]
fn a_volume_grows_and_never_shrinks() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("volume.img");
    let blocks = |size: u64| {
        let volume = Subvolumes::new(mount(&image, size).unwrap()).unwrap();
        let figures = rustix::fs::fstatvfs(volume.root()).unwrap();
        figures.f_blocks * figures.f_frsize
    };
    assert_eq!(blocks(1 << 30), 1 << 30);
    assert_eq!(blocks(3 << 30), 3 << 30);
    assert_eq!(blocks(1 << 30), 3 << 30);
}

#[test]
fn a_mounted_volume_is_not_mounted_twice() {
    let (directory, _volume) = volume();
    let image = File::open(directory.path().join("volume.img")).unwrap();
    let taken = rustix::fs::flock(&image, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert_eq!(taken, Err(rustix::io::Errno::WOULDBLOCK), "the loop device keeps the lock");
}

#[test]
fn names_that_are_not_ours_are_refused() {
    let (_directory, volume) = volume();
    let long = "a".repeat(256);
    for name in ["", ".", "..", "a/b", "../x", "A", "a b", "a\0", "é", long.as_str()] {
        assert_eq!(
            volume.create(name, MEBIBYTE).unwrap_err().kind(),
            io::ErrorKind::InvalidInput,
            "{name:?}"
        );
        assert_eq!(volume.delete(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
    }
    volume.create("a-1", MEBIBYTE).unwrap();
    assert_eq!(volume.create("a-1", MEBIBYTE).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(volume.delete("b").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(volume.list().unwrap(), ["a-1"]);
    for name in ["b", "c"] {
        volume.create(name, u64::MAX).unwrap();
    }
    assert_eq!(volume.list().unwrap(), ["a-1", "b", "c"]);
}

#[test]
fn an_image_that_is_no_volume_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("volume.img");
    fs::write(&image, "not a volume").unwrap();
    let error = mount(&image, SIZE).unwrap_err();
    assert!(error.to_string().contains("mounting the volume"), "{error}");
    eventually("the loop device is free", || attached(&image) == 0);
}
