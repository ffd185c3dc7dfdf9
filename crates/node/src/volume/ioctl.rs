//! The btrfs and loop device calls that no library has, as safe functions.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;

const BTRFS_RESIZE: libc::Ioctl = write_code(3, size_of::<VolumeArguments>());
const BTRFS_INODE_LOOKUP: libc::Ioctl = both_code(18, size_of::<InodeLookup>());
const BTRFS_SUBVOLUME_CREATE: libc::Ioctl = write_code(24, size_of::<VolumeArguments2>());
const BTRFS_SUBVOLUME_DESTROY: libc::Ioctl = write_code(63, size_of::<VolumeArguments2>());
const BTRFS_FILE_SYSTEM_INFO: libc::Ioctl = read_code(31, size_of::<FileSystemInfo>());
const BTRFS_QUOTA_CONTROL: libc::Ioctl = both_code(40, size_of::<QuotaControl>());
const BTRFS_GROUP_CREATE: libc::Ioctl = write_code(42, size_of::<GroupCreate>());
const BTRFS_GROUP_LIMIT: libc::Ioctl = read_code(43, size_of::<GroupLimit>());

const QUOTA_ENABLE: u64 = 1;
const QUOTA_ENABLE_SIMPLE: u64 = 4;
const LIMIT_REFERENCED: u64 = 1;
const SUBVOLUME_INHERIT_GROUP: u64 = 1 << 2;
const INHERIT_SET_LIMITS: u64 = 1;
/// The inode number of every subvolume's root directory.
pub(super) const SUBVOLUME_ROOT_INODE: u64 = 256;

const fn code(direction: u64, number: u64, size: usize) -> libc::Ioctl {
    const BTRFS_MAGIC: u64 = 0x94;
    (direction << 30) | ((size as u64) << 16) | (BTRFS_MAGIC << 8) | number
}
const fn write_code(number: u64, size: usize) -> libc::Ioctl {
    code(1, number, size)
}
const fn read_code(number: u64, size: usize) -> libc::Ioctl {
    code(2, number, size)
}
const fn both_code(number: u64, size: usize) -> libc::Ioctl {
    code(3, number, size)
}

#[repr(C)]
struct VolumeArguments {
    fd: i64,
    name: [u8; 4088],
}

#[repr(C)]
struct VolumeArguments2 {
    fd: i64,
    transaction: u64,
    flags: u64,
    inherit_size: u64,
    inherit: *const GroupInherit,
    unused: [u64; 2],
    name: [u8; 4040],
}

#[repr(C)]
struct GroupInherit {
    flags: u64,
    groups: u64,
    referenced_copies: u64,
    exclusive_copies: u64,
    limit: Limit,
}

#[repr(C)]
#[derive(Default)]
struct Limit {
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved_referenced: u64,
    reserved_exclusive: u64,
}

#[repr(C)]
struct GroupLimit {
    group: u64,
    limit: Limit,
}

#[repr(C)]
struct GroupCreate {
    create: u64,
    group: u64,
}

#[repr(C)]
struct QuotaControl {
    command: u64,
    status: u64,
}

#[repr(C)]
struct InodeLookup {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

#[repr(C)]
struct FileSystemInfo {
    max_device: u64,
    devices: u64,
    uuid: [u8; 16],
    rest: [u8; 992],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    special_device: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const _: () = assert!(size_of::<VolumeArguments>() == 4096);
const _: () = assert!(size_of::<VolumeArguments2>() == 4096);
const _: () = assert!(size_of::<InodeLookup>() == 4096);
const _: () = assert!(size_of::<FileSystemInfo>() == 1024);
const _: () = assert!(size_of::<GroupLimit>() == 48);
const _: () = assert!(size_of::<LoopConfig>() == 304);

/// Runs one ioctl whose argument is a structure.
///
/// # Safety
/// `T` must be the structure that the kernel expects for `request`, and whatever pointers it holds must be valid.
unsafe fn call<T>(fd: BorrowedFd<'_>, request: libc::Ioctl, argument: &mut T) -> io::Result<u64> {
    // SAFETY: the caller vouches for the match of request and structure; the reference is valid for the call.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    u64::try_from(answer).map_err(|_| io::Error::last_os_error())
}

/// Copies a name into a zero-terminated field.
fn named<const N: usize>(name: &str) -> io::Result<[u8; N]> {
    let mut field = [0; N];
    if name.len() >= N {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    field[..name.len()].copy_from_slice(name.as_bytes());
    Ok(field)
}

/// The number of a loop device that was free a moment ago; `control` is `/dev/loop-control`.
pub(super) fn loop_find_free(control: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument.
    let answer = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    u64::try_from(answer).map_err(|_| io::Error::last_os_error())
}

/// Attaches a file to a loop device with blocks of 4 KiB. The device lets go by itself with its last user.
/// `EBUSY` when somebody else took the device in the meantime.
pub(super) fn loop_attach(device: impl AsFd, file: impl AsFd) -> io::Result<()> {
    const AUTOCLEAR: u32 = 4;
    const DIRECT_IO: u32 = 16;
    let fd = u32::try_from(file.as_fd().as_raw_fd()).expect("descriptors are not negative");
    // SAFETY: all fields are integers or arrays of them, for which zero is a value.
    let mut config: LoopConfig = unsafe { std::mem::zeroed() };
    config.fd = fd;
    config.block_size = 4096;
    config.info.flags = AUTOCLEAR | DIRECT_IO;
    // SAFETY: LOOP_CONFIGURE takes a loop_config, which LoopConfig mirrors.
    unsafe { call(device.as_fd(), LOOP_CONFIGURE, &mut config) }.map(drop)
}

/// Grows (or shrinks) the file system to the size of its device.
pub(super) fn resize_to_device(root: impl AsFd) -> io::Result<()> {
    let mut arguments = VolumeArguments { fd: 0, name: named("max")? };
    // SAFETY: BTRFS_IOC_RESIZE takes btrfs_ioctl_vol_args, which VolumeArguments mirrors.
    unsafe { call(root.as_fd(), BTRFS_RESIZE, &mut arguments) }.map(drop)
}

/// Switches quotas on: simple ones (kernel 6.7 and later), else full ones. Leaves them alone where they are on.
pub(super) fn enable_quota(root: impl AsFd) -> io::Result<()> {
    let enable = |command| {
        let mut control = QuotaControl { command, status: 0 };
        // SAFETY: BTRFS_IOC_QUOTA_CTL takes btrfs_ioctl_quota_ctl_args, which QuotaControl mirrors.
        unsafe { call(root.as_fd(), BTRFS_QUOTA_CONTROL, &mut control) }.map(drop)
    };
    match enable(QUOTA_ENABLE_SIMPLE) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => enable(QUOTA_ENABLE),
        answer => answer,
    }
}

/// Makes a subvolume that may hold `limit_bytes`; both happen at once.
pub(super) fn subvolume_create(parent: impl AsFd, name: &str, limit_bytes: u64) -> io::Result<()> {
    let inherit = GroupInherit {
        flags: INHERIT_SET_LIMITS,
        groups: 0,
        referenced_copies: 0,
        exclusive_copies: 0,
        limit: limit(limit_bytes),
    };
    let mut arguments = VolumeArguments2 {
        fd: 0,
        transaction: 0,
        flags: SUBVOLUME_INHERIT_GROUP,
        inherit_size: size_of::<GroupInherit>() as u64,
        inherit: &raw const inherit,
        unused: [0; 2],
        name: named(name)?,
    };
    // SAFETY: BTRFS_IOC_SUBVOL_CREATE_V2 takes btrfs_ioctl_vol_args_v2, which VolumeArguments2 mirrors; `inherit`
    // has the size given and lives longer than the call.
    unsafe { call(parent.as_fd(), BTRFS_SUBVOLUME_CREATE, &mut arguments) }.map(drop)
}

/// Removes a subvolume with all that is in it; the space comes back in the background.
pub(super) fn subvolume_destroy(parent: impl AsFd, name: &str) -> io::Result<()> {
    let mut arguments = VolumeArguments2 {
        fd: 0,
        transaction: 0,
        flags: 0,
        inherit_size: 0,
        inherit: std::ptr::null(),
        unused: [0; 2],
        name: named(name)?,
    };
    // SAFETY: BTRFS_IOC_SNAP_DESTROY_V2 takes btrfs_ioctl_vol_args_v2, which VolumeArguments2 mirrors.
    unsafe { call(parent.as_fd(), BTRFS_SUBVOLUME_DESTROY, &mut arguments) }.map(drop)
}

/// The number of the subvolume that a directory belongs to.
pub(super) fn subvolume_id(directory: impl AsFd) -> io::Result<u64> {
    let mut lookup = InodeLookup { tree: 0, object: SUBVOLUME_ROOT_INODE, name: [0; 4080] };
    // SAFETY: BTRFS_IOC_INO_LOOKUP takes btrfs_ioctl_ino_lookup_args, which InodeLookup mirrors.
    unsafe { call(directory.as_fd(), BTRFS_INODE_LOOKUP, &mut lookup) }?;
    Ok(lookup.tree)
}

/// Sets how many bytes the subvolume of this directory may hold.
pub(super) fn set_limit(subvolume: impl AsFd, limit_bytes: u64) -> io::Result<()> {
    let mut arguments = GroupLimit { group: 0, limit: limit(limit_bytes) };
    // SAFETY: BTRFS_IOC_QGROUP_LIMIT takes btrfs_ioctl_qgroup_limit_args, which GroupLimit mirrors; group 0 means
    // the one of the descriptor's own subvolume.
    unsafe { call(subvolume.as_fd(), BTRFS_GROUP_LIMIT, &mut arguments) }.map(drop)
}

fn limit(bytes: u64) -> Limit {
    Limit { flags: LIMIT_REFERENCED, max_referenced: bytes, ..Limit::default() }
}

/// Removes the quota group of a subvolume that is gone. `EBUSY` while its space is still being given back.
pub(super) fn group_remove(root: impl AsFd, id: u64) -> io::Result<()> {
    let mut arguments = GroupCreate { create: 0, group: id };
    // SAFETY: BTRFS_IOC_QGROUP_CREATE takes btrfs_ioctl_qgroup_create_args, which GroupCreate mirrors.
    unsafe { call(root.as_fd(), BTRFS_GROUP_CREATE, &mut arguments) }.map(drop)
}

/// The UUID under which the kernel shows this file system.
pub(super) fn file_system_uuid(root: impl AsFd) -> io::Result<[u8; 16]> {
    let mut info = FileSystemInfo { max_device: 0, devices: 0, uuid: [0; 16], rest: [0; 992] };
    // SAFETY: BTRFS_IOC_FS_INFO fills btrfs_ioctl_fs_info_args, which FileSystemInfo mirrors.
    unsafe { call(root.as_fd(), BTRFS_FILE_SYSTEM_INFO, &mut info) }?;
    Ok(info.uuid)
}
