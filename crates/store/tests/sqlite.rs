//! The SQLite store: the conformance suite, and what is its own.

use isopod_model::{Error, SandboxState};
use isopod_store::{
    OpenError, SqliteStore, Store,
    conformance::{self, event, record, step},
};
use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc};

async fn raw(data: &Path, statement: &'static str) {
    use sqlx::{ConnectOptions, Connection};
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(data.join("isopod.db"));
    let mut connection = options.connect().await.expect("a second connection");
    sqlx::raw_sql(statement).execute(&mut connection).await.expect("the statement is right");
    connection.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let directory = tempfile::tempdir().expect("a directory");
    let count = std::sync::atomic::AtomicU32::new(0);
    conformance::run(async || {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let data = directory.path().join(number.to_string());
        std::fs::create_dir(&data).expect("a directory");
        Arc::new(SqliteStore::open(&data).await.expect("opens")) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test]
async fn everything_is_there_after_opening_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let saved = record(1, Some("kept"));
    let store = SqliteStore::open(directory.path()).await.expect("opens");
    store.insert(&saved, &event("sandbox.created", 1)).await.expect("is saved");
    store.close().await;
    assert!(matches!(store.get(&saved.sandbox.id).await, Err(Error::Internal { .. })), "closed is closed");
    for _ in 0..2 {
        let again = SqliteStore::open(directory.path()).await.expect("migrations run again without harm");
        assert_eq!(again.live().await, Ok(vec![saved.clone()]));
        // No close: as after the death of the process.
    }
    let mode = std::fs::metadata(directory.path().join("isopod.db")).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds environments");
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_a_clear_error() {
    let directory = tempfile::tempdir().expect("a directory");
    SqliteStore::open(directory.path()).await.expect("opens").close().await;
    raw(
        directory.path(),
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'of tomorrow', TRUE, x'00', 0)",
    )
    .await;
    let error = SqliteStore::open(directory.path()).await.expect_err("is refused");
    assert!(matches!(error, OpenError::NewerSchema { found: 9999, known: 1, .. }), "{error:?}");
    assert!(error.to_string().contains("newer version of isopod"), "{error}");
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("isopod.db"), "this is a letter to my mother ".repeat(100))
        .expect("writes");
    let error = SqliteStore::open(directory.path()).await.expect_err("is refused");
    assert!(matches!(error, OpenError::Unusable { .. }), "{error:?}");
    let missing = SqliteStore::open(&directory.path().join("missing")).await.expect_err("is refused");
    assert!(matches!(missing, OpenError::Unusable { .. }), "{missing:?}");
}

#[tokio::test]
async fn without_its_event_no_change_is_saved() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = SqliteStore::open(directory.path()).await.expect("opens");
    let saved = record(1, Some("whole"));
    store.insert(&saved, &event("sandbox.created", 1)).await.expect("is saved");
    raw(
        directory.path(),
        "CREATE TRIGGER full_disk BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'full'); END",
    )
    .await;
    let id = &saved.sandbox.id;
    let change = step(id, &[SandboxState::Creating], SandboxState::Running, 2);
    assert!(matches!(store.transition(&change).await, Err(Error::Internal { .. })));
    let other = record(2, Some("half"));
    assert!(matches!(store.insert(&other, &event("sandbox.created", 2)).await, Err(Error::Internal { .. })));
    assert_eq!(store.live().await, Ok(vec![saved.clone()]), "neither the step nor the insert is there");
    raw(directory.path(), "DROP TRIGGER full_disk").await;
    let after = store.transition(&change).await.expect("the writer is usable again");
    assert_eq!(after.sandbox.state, SandboxState::Running);
}
