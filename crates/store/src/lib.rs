//! Durable state of the platform behind one trait.
//!
//! [`sqlite`] keeps it in one file. SQL is written so that another database can take it with the same texts: `$1`
//! placeholders, text, integers, JSON as text. [`conformance`] is what every implementation must pass.

pub mod conformance;
mod record;
pub mod sqlite;
mod words;

use async_trait::async_trait;
use isopod_model::{Result, SandboxId, Timestamp, event::Event};

pub use record::{ListQuery, NewEvent, Record, Swept, Transition, Update};
pub use sqlite::{OpenError, SqliteStore};

/// Durable state of the platform: sandboxes and what happened to them.
///
/// Every state change and its event are saved together or not at all. All calls may come concurrently. Moments are
/// kept in whole milliseconds. Faults of the database are [`isopod_model::Error::Internal`].
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Saves a new sandbox and its first event.
    ///
    /// # Errors
    /// [`isopod_model::Error::NameTaken`] with the holder's id when the owner has a sandbox of that name that has not
    /// ended; `Internal` when the id is taken.
    async fn insert(&self, record: &Record, event: &NewEvent) -> Result<()>;
    /// One sandbox, ended ones included until retention removes them.
    async fn get(&self, id: &SandboxId) -> Result<Option<Record>>;
    /// The owner's sandbox of that name that has not ended.
    async fn get_by_name(&self, owner: &str, name: &str) -> Result<Option<Record>>;
    /// Every sandbox that has not ended, of every owner, oldest first.
    async fn live(&self) -> Result<Vec<Record>>;
    /// The owner's sandboxes that match, newest first.
    async fn list(&self, query: &ListQuery) -> Result<Vec<Record>>;
    /// Sets what callers may change, and saves the event; the record afterwards.
    ///
    /// # Errors
    /// `NotFound` for an unknown id, `WrongState` for an ended one.
    async fn update(&self, id: &SandboxId, update: &Update, event: &NewEvent) -> Result<Record>;
    /// Changes the state if it is one of `transition.from`, and saves the event; the record afterwards.
    ///
    /// # Errors
    /// `NotFound` for an unknown id, `WrongState` with the present state when it is none of the expected ones,
    /// `Internal` when the lifecycle table does not know the step from each of them.
    async fn transition(&self, transition: &Transition) -> Result<Record>;
    /// Events of one sandbox after a position, oldest first.
    async fn events(&self, id: &SandboxId, after: i64, limit: u32) -> Result<Vec<Event>>;
    /// Removes sandboxes that ended before a moment, with all their events, and all events older than it.
    async fn sweep(&self, before: Timestamp) -> Result<Swept>;
    /// Writes out what is buffered and lets go of the database; every later call fails.
    async fn close(&self);
}
