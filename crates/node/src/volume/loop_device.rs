//! A file as a block device that lets go of it by itself.

use super::ioctl;
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};
use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

/// How long to wait for a volume that a launcher which has just ended is still writing back.
const RELEASE_DEADLINE: Duration = Duration::from_secs(20);
const ATTEMPTS: u32 = 64;

/// An attached loop device; it is detached when this and all mounts of it are gone.
pub(super) struct LoopDevice {
    /// Such as `/dev/loop3`.
    pub(super) path: String,
    _device: OwnedFd,
}

/// Attaches `image`. The lock on it is held by the device itself for as long as it is attached, since the kernel
/// keeps the very file description that took it: so no file is ever attached twice.
pub(super) fn attach(image: &File) -> io::Result<LoopDevice> {
    lock(image)?;
    let control = rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| explained("/dev/loop-control", error))?;
    for _ in 0..ATTEMPTS {
        let number = ioctl::loop_find_free(control.as_fd())?;
        let path = format!("/dev/loop{number}");
        let device = open_device(&path, number)?;
        match ioctl::loop_attach(&device, image) {
            Ok(()) => return Ok(LoopDevice { path, _device: device }),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "every loop device was taken by somebody else"))
}

fn lock(image: &File) -> io::Result<()> {
    let deadline = Instant::now() + RELEASE_DEADLINE;
    loop {
        match rustix::fs::flock(image, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            Err(Errno::WOULDBLOCK) => {
                let reason = "the volume is mounted by another process";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, reason));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn open_device(path: &str, number: u64) -> io::Result<OwnedFd> {
    let open = || rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    match open() {
        // A container's /dev may be a plain directory in which nobody makes nodes for new devices.
        Err(Errno::NOENT) => {
            let numbers = fs::read_to_string(format!("/sys/block/loop{number}/dev"))?;
            let device = numbers
                .trim()
                .split_once(':')
                .and_then(|(major, minor)| {
                    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
                })
                .ok_or_else(|| {
                    io::Error::other(format!("loop{number} has the odd device number {numbers}"))
                })?;
            let mode = Mode::RUSR | Mode::WUSR;
            let here = rustix::fs::CWD;
            match rustix::fs::mknodat(here, path, rustix::fs::FileType::BlockDevice, mode, device) {
                Ok(()) | Err(Errno::EXIST) => open().map_err(|error| explained(path, error)),
                Err(error) => Err(explained(path, error)),
            }
        }
        answer => answer.map_err(|error| explained(path, error)),
    }
}

fn explained(path: &str, error: Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{path}: {error} (disk quotas need loop devices)"))
}
