//! The vocabulary of Isopod: ids, specs, the lifecycle table, execs, limits, events and errors.
//!
//! No I/O and no async live here; every other room speaks in these words, and the `/v1` API shows
//! them to clients as they are (snake_case JSON, RFC 3339 times, `_ms`, `_s`, `_mib`, `_bytes`).

pub mod clock;
pub mod ending;
pub mod error;
pub mod event;
pub mod exec;
pub mod file;
pub mod id;
pub mod lifecycle;
pub mod limits;
pub mod name;
pub mod page;
pub mod sandbox;

pub use clock::{Clock, Entropy, Timestamp};
pub use ending::{EndReason, Ending};
pub use error::{Error, ErrorCode, Result};
pub use id::{ExecId, SandboxId};
pub use lifecycle::SandboxState;
