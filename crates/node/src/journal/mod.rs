//! The durable output of execs: one journal per stream of each exec, files on disk and nothing else.
//!
//! Bytes go from the guest's pipe into a file with one `splice(2)` at an explicit offset. The kernel takes from the
//! pipe exactly what it has put into the file, so a server that is killed between or within two such calls loses
//! nothing and doubles nothing: the next one looks at names and lengths and goes on. Every reader (buffered result,
//! SSE, WebSocket, re-attach) reads the journal. Nothing is synced: a power loss may take the last seconds.
//!
//! # Layout
//! A journal is a set of segments named `<exec>.out.<start>` or `<exec>.err.<start>`, where `<start>` is the offset of
//! the segment's first byte in the stream. The stream is cut into windows, which no segment crosses:
//!
//! ```text
//! 0              head            + segment        + segment
//! ├── window 0 ──┼─── window 1 ──┼── window 2 ────┼── window 3 ── …
//!    kept for ever    └─ of these only the newest two are held ─┘
//! ```
//!
//! The head is three quarters of the limit, a later window one eighth. Before window n is begun, window n - 2 is
//! unlinked: dropped bytes cost nothing, and what is held never exceeds the limit. Usually a window is one segment;
//! where bytes were lost because the file could not be written, the next segment's name says where they resume. An
//! exec that prints nothing has no file.

mod layout;
mod reader;
mod sweep;
mod writer;

#[cfg(test)]
mod tests;

pub use reader::{JournalReader, Piece};
pub use sweep::{Swept, remove, sweep, usage};
pub use writer::{JournalWriter, Pumped};

/// How many bytes of one stream are held, unless told otherwise.
pub const STREAM_LIMIT: u64 = isopod_model::exec::JOURNAL_LIMIT / 2;
