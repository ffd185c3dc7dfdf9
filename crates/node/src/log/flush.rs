//! Moving records into the database, and out of it when they are old.

use super::{SandboxLog, database::time_text, wal::Wal};
use isopod_model::{Error, Result, Timestamp};
use sqlx::SqliteConnection;

/// What [`SandboxLog::prune`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Records of ended execs.
    pub execs: u64,
    /// Events.
    pub events: u64,
}

impl SandboxLog {
    /// Moves all that waits into the database. Safe to be cut off at any point, by a crash or by dropping the
    /// future: nothing is lost or doubled, the next flush goes on.
    ///
    /// # Errors
    /// [`Error::Internal`]: a file or the database cannot be written. Nothing is lost: the records stay where they
    /// are and the next flush tries again.
    pub async fn flush(&self) -> Result<()> {
        let _turn = self.flushing.lock().await;
        let leftover = self.state().flushing > 0;
        if leftover {
            self.commit().await?;
            self.finish().await?;
        }
        if self.rotate()? {
            self.commit().await?;
            self.finish().await?;
        }
        Ok(())
    }

    /// Steps 1 and 2: what waits becomes a batch, in a file of its own. False when nothing waits.
    pub(super) fn rotate(&self) -> Result<bool> {
        self.state().rotate().map_err(|error| self.fault(error))
    }

    /// Step 3: the batch goes into the database.
    pub(super) async fn commit(&self) -> Result<()> {
        let batch = self.state().batch(&self.sandbox);
        self.database.write(&batch).await
    }

    /// Steps 4 and 5: the checkpoint is made durable, then the batch is forgotten.
    pub(super) async fn finish(&self) -> Result<()> {
        let path = self.state().wal.path().to_owned();
        tokio::task::spawn_blocking(move || Wal::sync(&path))
            .await
            .map_err(|error| self.fault(error))?
            .map_err(|error| self.fault(error))?;
        self.state().finish().map_err(|error| self.fault(error))
    }

    /// Removes flushed records: ended execs and events before `older_than`, then the oldest of both until the
    /// database holds at most `budget_bytes`. Execs that have not ended stay.
    ///
    /// # Errors
    /// [`Error::Internal`]: the database cannot be read or written.
    pub async fn prune(&self, older_than: Timestamp, budget_bytes: u64) -> Result<Pruned> {
        if !self.state().has_database {
            return Ok(Pruned::default());
        }
        self.database
            .with(false, async |connection| {
                let cutoff = time_text(older_than);
                let mut pruned = Pruned {
                    execs: delete(connection, "DELETE FROM execs WHERE ended_at < $1", &cutoff).await?,
                    events: delete(connection, "DELETE FROM events WHERE at < $1", &cutoff).await?,
                };
                while used_bytes(connection).await? > budget_bytes {
                    let execs = delete_oldest_execs(connection).await?;
                    let events = delete_oldest_events(connection).await?;
                    if execs + events == 0 {
                        break;
                    }
                    pruned.execs += execs;
                    pruned.events += events;
                }
                sqlx::query("PRAGMA incremental_vacuum").execute(&mut *connection).await?;
                Ok(pruned)
            })
            .await
    }

    fn fault(&self, error: impl std::fmt::Display) -> Error {
        Error::internal(format!("the log of {} cannot be flushed: {error}", self.sandbox))
    }
}

async fn delete(
    connection: &mut SqliteConnection,
    statement: &'static str,
    cutoff: &str,
) -> sqlx::Result<u64> {
    Ok(sqlx::query(statement).bind(cutoff).execute(connection).await?.rows_affected())
}

/// An eighth of the ended execs, those that ended first.
async fn delete_oldest_execs(connection: &mut SqliteConnection) -> sqlx::Result<u64> {
    let deleted = sqlx::query(
        "DELETE FROM execs WHERE id IN (SELECT id FROM execs WHERE ended_at IS NOT NULL ORDER BY ended_at LIMIT \
         (SELECT count(*) / 8 + 1 FROM execs WHERE ended_at IS NOT NULL))",
    );
    Ok(deleted.execute(connection).await?.rows_affected())
}

/// An eighth of the events, the first ones.
async fn delete_oldest_events(connection: &mut SqliteConnection) -> sqlx::Result<u64> {
    let deleted = sqlx::query(
        "DELETE FROM events WHERE seq IN (SELECT seq FROM events ORDER BY seq LIMIT \
         (SELECT count(*) / 8 + 1 FROM events))",
    );
    Ok(deleted.execute(connection).await?.rows_affected())
}

/// Bytes of the database that hold something.
async fn used_bytes(connection: &mut SqliteConnection) -> sqlx::Result<u64> {
    let mut figures = [0; 3];
    for (figure, pragma) in
        figures.iter_mut().zip(["PRAGMA page_count", "PRAGMA freelist_count", "PRAGMA page_size"])
    {
        let value: i64 = sqlx::query_scalar(pragma).fetch_one(&mut *connection).await?;
        *figure = value.unsigned_abs();
    }
    let [pages, free, size] = figures;
    Ok(pages.saturating_sub(free) * size)
}
