//! Disk quotas: one btrfs image per node, one subvolume with a limit per sandbox.
//!
//! A limit holds for data and metadata alike, so it stops a million empty files as it stops one large one. The
//! writer is told `EDQUOT`; the host's own file system only sees a sparse file.

mod ioctl;
mod loop_device;
mod mount;
mod seed;
mod size;
mod subvolumes;
#[cfg(test)]
mod tests;

pub use mount::mount;
pub use size::{LEAST_SIZE, RESERVED_FOR_HOST, image_size};
pub use subvolumes::Subvolumes;
