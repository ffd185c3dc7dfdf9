//! `log.db`: opened for each use and closed after it.

use super::{record::ExecRecord, state::Batch};
use isopod_model::{Error, ExecId, Result, SandboxId, Timestamp, event::Event};
use sqlx::{
    ConnectOptions, Connection, Row, SqliteConnection,
    sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous},
};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit};

/// The version of the schema, kept in `user_version`.
const VERSION: u32 = 1;
const SCHEMA: &str = include_str!("schema.sql");

/// How many log databases of this process may be open at a time: each costs a thread and some descriptors.
pub(super) const CONNECTIONS: usize = 32;
static PERMITS: Semaphore = Semaphore::const_new(CONNECTIONS);

/// How many more may be opened now.
#[cfg(test)]
pub(super) fn free_connections() -> usize {
    PERMITS.available_permits()
}

/// The database of one log, used by one task at a time.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    turn: Mutex<()>,
}

/// An open database, and the right to have it open.
pub(super) struct Open<'a> {
    pub(super) connection: SqliteConnection,
    _permit: SemaphorePermit<'static>,
    _turn: MutexGuard<'a, ()>,
}

/// What a log must know of its database to go on with it.
pub(super) struct Summary {
    pub(super) newest: i64,
    pub(super) execs_total: u64,
    pub(super) open: Vec<ExecRecord>,
}

impl Database {
    /// Opens nothing, but refuses a database of a newer version.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let database = Self { path: dir.join("log.db"), turn: Mutex::default() };
        // SQLite keeps the version at a fixed place in the file: looking there costs no connection.
        let mut version = [0; 4];
        match File::open(&database.path).and_then(|file| file.read_at(&mut version, 60)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(database.fault(error)),
            _ => database.check(u32::from_be_bytes(version)).map(|()| database),
        }
    }

    pub(super) fn exists(&self) -> bool {
        self.path.exists()
    }

    fn check(&self, version: u32) -> Result<()> {
        if version > VERSION {
            return Err(self.fault(format!(
                "it has schema version {version}, this server knows up to {VERSION}: run a newer server"
            )));
        }
        Ok(())
    }

    pub(super) fn fault(&self, error: impl std::fmt::Display) -> Error {
        Error::internal(format!("{}: {error}", self.path.display()))
    }

    /// Opens the database, and with `create` makes it first if need be. Waits for a permit.
    pub(super) async fn open(&self, create: bool) -> Result<Open<'_>> {
        let turn = self.turn.lock().await;
        let permit = PERMITS.acquire().await.map_err(|error| self.fault(error))?;
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(create)
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .disable_statement_logging();
        let connection = options.connect().await.map_err(|error| self.fault(error))?;
        let mut open = Open { connection, _permit: permit, _turn: turn };
        match self.migrate(&mut open.connection).await {
            Ok(()) => Ok(open),
            Err(error) => {
                open.close().await;
                Err(error)
            }
        }
    }

    async fn migrate(&self, connection: &mut SqliteConnection) -> Result<()> {
        let version: u32 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| self.fault(error))?;
        self.check(version)?;
        if version == 0 {
            sqlx::raw_sql(SCHEMA).execute(connection).await.map_err(|error| self.fault(error))?;
        }
        Ok(())
    }

    /// Opens the database for one piece of work and closes it again.
    pub(super) async fn with<T>(
        &self,
        create: bool,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> sqlx::Result<T>,
    ) -> Result<T> {
        let mut open = self.open(create).await?;
        let result = work(&mut open.connection).await;
        open.close().await;
        result.map_err(|error| self.fault(error))
    }

    /// Writes a batch in one transaction; a second time changes nothing.
    pub(super) async fn write(&self, batch: &Batch) -> Result<()> {
        self.with(true, async |connection| {
            let mut transaction = connection.begin().await?;
            for record in &batch.execs {
                upsert_exec(&mut transaction, record).await?;
            }
            for event in &batch.events {
                sqlx::query(
                    "INSERT INTO events (seq, at, kind, data) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
                )
                .bind(event.seq)
                .bind(time_text(event.at))
                .bind(&event.kind)
                .bind(event.data.to_string())
                .execute(&mut *transaction)
                .await?;
            }
            transaction.commit().await
        })
        .await
    }

    pub(super) async fn summary(&self) -> Result<Summary> {
        self.with(false, async |connection| {
            let (newest, execs_total): (i64, i64) = sqlx::query_as(
                "SELECT (SELECT coalesce(max(seq), 0) FROM events), (SELECT count(*) FROM execs)",
            )
            .fetch_one(&mut *connection)
            .await?;
            let rows = sqlx::query("SELECT record FROM execs WHERE ended_at IS NULL")
                .fetch_all(&mut *connection)
                .await?;
            let open = rows.iter().map(record).collect::<sqlx::Result<_>>()?;
            Ok(Summary { newest, execs_total: execs_total.unsigned_abs(), open })
        })
        .await
    }

    pub(super) async fn get(&self, id: &ExecId) -> Result<Option<ExecRecord>> {
        self.with(false, async |connection| {
            let row = sqlx::query("SELECT record FROM execs WHERE id = $1")
                .bind(id.as_str())
                .fetch_optional(connection)
                .await?;
            row.as_ref().map(record).transpose()
        })
        .await
    }

    pub(super) async fn find_key(&self, key: &str) -> Result<Option<ExecRecord>> {
        self.with(false, async |connection| {
            let row = sqlx::query("SELECT record FROM execs WHERE idempotency_key = $1 ORDER BY id LIMIT 1")
                .bind(key)
                .fetch_optional(connection)
                .await?;
            row.as_ref().map(record).transpose()
        })
        .await
    }

    /// Newest first, ids below `before`.
    pub(super) async fn list(&self, before: Option<&ExecId>, limit: u32) -> Result<Vec<ExecRecord>> {
        self.with(false, async |connection| {
            let rows =
                sqlx::query("SELECT record FROM execs WHERE $1 IS NULL OR id < $1 ORDER BY id DESC LIMIT $2")
                    .bind(before.map(ExecId::as_str))
                    .bind(limit)
                    .fetch_all(connection)
                    .await?;
            rows.iter().map(record).collect()
        })
        .await
    }

    /// In order, positions above `after`.
    pub(super) async fn events(&self, sandbox: &SandboxId, after: i64, limit: u32) -> Result<Vec<Event>> {
        self.with(false, async |connection| {
            let rows =
                sqlx::query("SELECT seq, at, kind, data FROM events WHERE seq > $1 ORDER BY seq LIMIT $2")
                    .bind(after)
                    .bind(limit)
                    .fetch_all(connection)
                    .await?;
            rows.iter().map(|row| event(sandbox, row)).collect()
        })
        .await
    }
}

impl Open<'_> {
    /// Closes the database; its own write-ahead log goes with the last connection. Nothing is lost if that fails.
    pub(super) async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "a log database was not closed properly");
        }
    }
}

async fn upsert_exec(connection: &mut SqliteConnection, record: &ExecRecord) -> sqlx::Result<()> {
    let exec = &record.exec;
    sqlx::query(
        "INSERT INTO execs (id, started_at, ended_at, duration_ms, reason, exit_code, idempotency_key, record) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
         ON CONFLICT (id) DO UPDATE SET ended_at = excluded.ended_at, duration_ms = excluded.duration_ms, \
         reason = excluded.reason, exit_code = excluded.exit_code, record = excluded.record \
         WHERE execs.ended_at IS NULL",
    )
    .bind(exec.id.as_str())
    .bind(time_text(exec.started_at))
    .bind(exec.ended_at.map(time_text))
    .bind(exec.ended_at.map(|_| exec.duration_ms))
    .bind(exec.reason.map(isopod_model::EndReason::as_str))
    .bind(exec.exit_code)
    .bind(record.idempotency.as_ref().map(|idempotency| &idempotency.key))
    .bind(serde_json::to_string(record).map_err(|error| sqlx::Error::Encode(error.into()))?)
    .execute(connection)
    .await
    .map(|_| ())
}

fn record(row: &SqliteRow) -> sqlx::Result<ExecRecord> {
    decode(row.try_get("record")?)
}

fn event(sandbox: &SandboxId, row: &SqliteRow) -> sqlx::Result<Event> {
    let at: &str = row.try_get("at")?;
    Ok(Event {
        seq: row.try_get("seq")?,
        at: at.parse().map_err(|error: jiff::Error| sqlx::Error::Decode(error.into()))?,
        sandbox_id: sandbox.clone(),
        kind: row.try_get("kind")?,
        data: decode(row.try_get("data")?)?,
    })
}

fn decode<T: serde::de::DeserializeOwned>(text: &str) -> sqlx::Result<T> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// A time as text that sorts: always with nine digits after the point.
pub(super) fn time_text(at: Timestamp) -> String {
    format!("{at:.9}")
}
