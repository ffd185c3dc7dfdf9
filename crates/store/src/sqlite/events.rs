//! What happened to sandboxes.

use super::{SqliteStore, fault, row};
use crate::{NewEvent, words::json};
use isopod_model::{Result, SandboxId, event::Event};
use sqlx::SqliteConnection;

/// Saves an event within the transaction of the change it tells of.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    id: &SandboxId,
    event: &NewEvent,
) -> Result<()> {
    sqlx::query("INSERT INTO events (at, sandbox_id, kind, data) VALUES ($1, $2, $3, $4)")
        .bind(event.at.as_millisecond())
        .bind(id.as_str())
        .bind(event.kind)
        .bind(json(&event.data)?)
        .execute(connection)
        .await
        .map_err(fault)?;
    Ok(())
}

impl SqliteStore {
    pub(super) async fn events_of(&self, id: &SandboxId, after: i64, limit: u32) -> Result<Vec<Event>> {
        let rows = sqlx::query(
            "SELECT seq, at, sandbox_id, kind, data FROM events \
             WHERE sandbox_id = $1 AND seq > $2 ORDER BY seq LIMIT $3",
        )
        .bind(id.as_str())
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await
        .map_err(fault)?;
        rows.iter().map(row::event).collect()
    }
}
