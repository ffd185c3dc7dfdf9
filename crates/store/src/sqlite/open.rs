//! Opening the file: pragmas, permissions, migrations.

use super::SqliteStore;
use sqlx::{
    SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How long a connection waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Reading connections at most; each is a thread.
const READERS: u32 = 4;

/// Why the store could not be opened; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A newer Isopod wrote it.
    #[error(
        "{}: was written by a newer version of isopod (its schema is {found}, this version knows {known}); \
         run that version, or restore the copy made before the upgrade",
        path.display()
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// The schema it has.
        found: i64,
        /// The newest schema that this version knows.
        known: i64,
    },
    /// Its schema cannot be brought up to date.
    #[error("{}: its schema cannot be brought up to date: {source}", path.display())]
    Migration {
        /// The file.
        path: PathBuf,
        /// Why.
        source: MigrateError,
    },
    /// It cannot be created or is no database.
    #[error("{}: cannot be opened: {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: sqlx::Error,
    },
}

impl SqliteStore {
    /// Opens `<data>/isopod.db`, made (readable by its owner only) when it is not there, and brings its schema up to
    /// date. `data` must exist.
    ///
    /// # Errors
    /// [`OpenError`]; a database of a newer schema is left untouched.
    pub async fn open(data: &Path) -> Result<Self, OpenError> {
        let path = data.join("isopod.db");
        let unusable = |source| OpenError::Unusable { path: path.clone(), source };
        // SQLite gives its -wal and -shm the permissions of the file itself, which holds environments: secrets.
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| unusable(sqlx::Error::Io(error)))?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = pool(1).connect_with(options.clone()).await.map_err(unusable)?;
        migrate(&writer, &path).await?;
        let readers = pool(READERS).connect_lazy_with(options.read_only(true));
        Ok(Self { writer, readers })
    }
}

fn pool(connections: u32) -> SqlitePoolOptions {
    // A connection is a thread of this process: there is nothing about it to test before each use.
    SqlitePoolOptions::new().max_connections(connections).test_before_acquire(false)
}

async fn migrate(writer: &SqlitePool, path: &Path) -> Result<(), OpenError> {
    let outcome = MIGRATIONS.run(writer).await;
    let Err(source) = outcome else { return Ok(()) };
    writer.close().await;
    let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    let path = path.to_owned();
    Err(match source {
        MigrateError::VersionMissing(found) if found > known => OpenError::NewerSchema { path, found, known },
        source => OpenError::Migration { path, source },
    })
}
