//! Bringing a volume up.

use super::{ioctl, loop_device, seed};
use rustix::{
    fs::{Mode, OFlags},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    },
};
use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::OwnedFd,
    path::Path,
};

/// Mounts the volume in the file `image`, made first where it is missing, and grown to `size_bytes` where it is
/// smaller (it never shrinks). The mount is attached nowhere: the descriptor can be attached with `move_mount` or
/// used as it is ([`super::Subvolumes`]). When its last user is gone, the volume is unmounted and its loop device
/// freed by the kernel, also after a `SIGKILL`.
///
/// Needs CAP_SYS_ADMIN in the initial user namespace, and Linux 5.19.
///
/// # Errors
/// Where loop devices or btrfs are missing, the host's disk is full, or the volume is damaged or mounted by somebody
/// else.
pub fn mount(image: &Path, size_bytes: u64) -> io::Result<OwnedFd> {
    let file = open_image(image, size_bytes)?;
    let device = loop_device::attach(&file)?;
    let mounted = mount_device(&device.path)?;
    let root = rustix::fs::openat(
        &mounted,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    ioctl::resize_to_device(&root)?;
    ioctl::enable_quota(&root)?;
    Ok(mounted)
}

fn open_image(image: &Path, size_bytes: u64) -> io::Result<File> {
    let open = || OpenOptions::new().read(true).write(true).open(image);
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            seed::write(image, size_bytes)?;
            open()?
        }
        answer => answer?,
    };
    if file.metadata()?.len() < size_bytes {
        file.set_len(size_bytes)?;
    }
    Ok(file)
}

fn mount_device(device: &str) -> io::Result<OwnedFd> {
    let context = fsopen("btrfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("{error}: this kernel has no btrfs, which disk quotas need"))
    })?;
    let configure = || -> rustix::io::Result<OwnedFd> {
        fsconfig_set_string(&context, "source", device)?;
        // Freed blocks are punched out of the image, so that it takes no more of the host's disk than it holds.
        fsconfig_set_string(&context, "discard", "async")?;
        // Also how soon the space of a deleted subvolume begins to come back.
        fsconfig_set_string(&context, "commit", "10")?;
        fsconfig_create(&context)?;
        fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOATIME,
        )
    };
    configure().map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("mounting the volume: {error}{}", complaints(&context)))
    })
}

/// What the kernel has to say about a mount that failed.
fn complaints(context: &OwnedFd) -> String {
    let mut all = String::new();
    let mut line = [0; 512];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut line) {
        all.push_str("; ");
        all.push_str(String::from_utf8_lossy(&line[..length]).trim_end());
    }
    all
}
