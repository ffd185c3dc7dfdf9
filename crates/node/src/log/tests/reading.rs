use super::*;

#[tokio::test]
async fn keys_are_found_in_memory_in_the_database_and_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path()).await;
    log.start(keyed(1, "a")).expect("start");
    log.end(ended(1)).expect("end");
    log.start(keyed(2, "b")).expect("start");
    let expected = ExecRecord { exec: ended(1), ..keyed(1, "a") };
    for flushed in [false, true] {
        if flushed {
            log.flush().await.expect("flush");
        }
        assert_eq!(log.find_key("a").await.expect("find"), Some(expected.clone()));
        assert_eq!(log.find_key("b").await.expect("find"), Some(keyed(2, "b")));
        assert_eq!(log.find_key("c' OR 1=1 --").await.expect("find"), None);
    }
    drop(log);
    let log = open(dir.path()).await;
    assert_eq!(log.find_key("a").await.expect("find"), Some(expected));
    assert_eq!(log.find_key("b").await.expect("find"), Some(keyed(2, "b")));
}

#[tokio::test]
async fn execs_are_listed_newest_first_in_pages() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path()).await;
    for number in [5, 1, 9, 3, 7] {
        log.start(started(number)).expect("start");
    }
    log.end(ended(9)).expect("end");
    log.flush().await.expect("flush");
    for number in [2, 8] {
        run(&log, number);
    }
    let ids = |execs: Vec<ExecRecord>| execs.into_iter().map(|record| record.exec.id).collect::<Vec<_>>();
    assert_eq!(ids(log.list(None, 3).await.expect("list")), [id(9), id(8), id(7)]);
    assert_eq!(ids(log.list(Some(&id(7)), 3).await.expect("list")), [id(5), id(3), id(2)]);
    assert_eq!(ids(log.list(Some(&id(2)), 3).await.expect("list")), [id(1)]);
    assert_eq!(ids(log.list(Some(&id(6)), 1).await.expect("list")), [id(5)]);
}

#[tokio::test]
async fn starts_and_ends_are_events_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path()).await;
    let mut long = started(1);
    long.exec.argv = vec!["é".repeat(10_000); 1_000];
    log.start(long.clone()).expect("start");
    log.end(Exec { argv: long.exec.argv.clone(), ..ended(1) }).expect("end");
    for flushed in [false, true] {
        if flushed {
            log.flush().await.expect("flush");
        }
        let events = log.events(0, 10).await.expect("events");
        assert_eq!(events[0].kind, "exec.started");
        assert_eq!(events[0].sandbox_id, sandbox());
        assert_eq!(events[0].data["exec_id"], json!(id(1)));
        let argv = events[0].data["argv"].as_array().expect("a list");
        assert_eq!((argv.len(), argv[0].as_str().map(|text| text.chars().count())), (32, Some(256)));
        assert_eq!(events[1].kind, "exec.ended");
        assert_eq!(events[1].data["reason"], json!("exited"));
        assert_eq!(events[1].data["exit_code"], json!(3));
        assert_eq!(events[1].data["duration_ms"], json!(4.75));
        let record = log.get(&id(1)).await.expect("get").expect("known");
        assert_eq!(record.exec.argv, long.exec.argv, "the record has all of them");
    }
}

/// The tables that people look into with any SQLite.
#[tokio::test]
async fn the_database_speaks_for_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path()).await;
    run(&log, 1);
    log.flush().await.expect("flush");
    let mut database = log.database.open(false).await.expect("open");
    let row: (String, String, f64, String, i32) = sqlx::query_as(
        "SELECT argv, started_at, duration_ms, reason, exit_code FROM execs WHERE ended_at > started_at",
    )
    .fetch_one(&mut database.connection)
    .await
    .expect("one");
    assert_eq!(row.0, r#"["echo","number 1"]"#);
    assert!(row.1.ends_with("001000000Z"), "{}", row.1);
    assert_eq!((row.2, row.3.as_str(), row.4), (4.75, "exited", 3));
    let unsynced: (i64, i64) = sqlx::query_as(
        "SELECT count(*), (SELECT count(*) FROM terminal_sessions) FROM events WHERE synced = 0",
    )
    .fetch_one(&mut database.connection)
    .await
    .expect("count");
    assert_eq!(unsynced, (2, 0));
    database.close().await;
}
