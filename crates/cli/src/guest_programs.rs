//! The two programs that run beside and inside sandboxes, built by this crate's build script and carried inside.

/// Starts sandboxes and keeps their file descriptors, outside of them.
pub(crate) const LAUNCHER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/launcher"));

/// The first process inside a sandbox.
pub(crate) const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent"));
