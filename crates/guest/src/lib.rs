//! The frames that the two guest programs speak, and the few system calls that both need.
//!
//! `launcher` runs outside: it starts sandboxes and keeps their file descriptors while the server is away.
//! `agent` is PID 1 inside a sandbox: it runs execs and reports their ends. Both are small static programs.

pub mod frames;
pub mod socket;
