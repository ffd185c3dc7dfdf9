//! The store in one SQLite file.
//!
//! WAL with `synchronous=NORMAL`: the death of the process loses nothing, a power loss may lose the last moments but
//! never tears a transaction. One connection writes, so that writers queue in memory instead of polling for the
//! file's lock; a few others read beside it.

mod events;
mod open;
mod row;
mod sandboxes;
mod sweep;
mod transition;

pub use open::OpenError;

use crate::{ListQuery, NewEvent, Record, Store, Swept, Transition, Update};
use async_trait::async_trait;
use isopod_model::{Error, Result, SandboxId, Timestamp, event::Event};
use sqlx::{Sqlite, SqlitePool};

/// The store in `<data>/isopod.db`.
#[derive(Debug)]
pub struct SqliteStore {
    /// One connection.
    writer: SqlitePool,
    readers: SqlitePool,
}

impl SqliteStore {
    /// A transaction that holds the file's write lock from its beginning.
    async fn write(&self) -> Result<sqlx::Transaction<'static, Sqlite>> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(fault)
    }
}

/// A fault of the database, for the log.
fn fault(error: sqlx::Error) -> Error {
    Error::internal(format!("store: {error}"))
}

#[async_trait]
impl Store for SqliteStore {
    async fn insert(&self, record: &Record, event: &NewEvent) -> Result<()> {
        self.insert_sandbox(record, event).await
    }

    async fn get(&self, id: &SandboxId) -> Result<Option<Record>> {
        self.sandbox(id).await
    }

    async fn get_by_name(&self, owner: &str, name: &str) -> Result<Option<Record>> {
        self.sandbox_of_name(owner, name).await
    }

    async fn live(&self) -> Result<Vec<Record>> {
        self.live_sandboxes().await
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<Record>> {
        self.list_sandboxes(query).await
    }

    async fn update(&self, id: &SandboxId, update: &Update, event: &NewEvent) -> Result<Record> {
        self.update_sandbox(id, update, event).await
    }

    async fn transition(&self, transition: &Transition) -> Result<Record> {
        self.change_state(transition).await
    }

    async fn events(&self, id: &SandboxId, after: i64, limit: u32) -> Result<Vec<Event>> {
        self.events_of(id, after, limit).await
    }

    async fn sweep(&self, before: Timestamp) -> Result<Swept> {
        self.remove_before(before).await
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
