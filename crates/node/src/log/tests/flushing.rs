use super::*;
use crate::log::database::CONNECTIONS;
use std::fs;

#[tokio::test]
async fn reads_are_the_same_before_and_after_a_flush() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path()).await;
    for number in 0..20 {
        run(&log, number);
        log.start(keyed(100 + number, &format!("key {number}"))).expect("start");
        log.event("tick", json!({"number": number, "text": "ü\n\"\0"})).expect("event");
        if number % 7 == 3 {
            let (events, execs) = (all_events(&log).await, all_execs(&log).await);
            log.flush().await.expect("flush");
            assert_eq!(log.waiting(), 0);
            assert_eq!((all_events(&log).await, all_execs(&log).await), (events, execs));
        }
        if number % 3 == 2 {
            log.end(ended(100 + number)).expect("end");
        }
    }
    assert_eq!(log.get(&id(3)).await.expect("get").map(|record| record.exec), Some(ended(3)));
    assert_eq!(log.get(&id(19)).await.expect("get").map(|record| record.exec), Some(ended(19)));
    assert_eq!(log.get(&id(99)).await.expect("get"), None);
    assert_eq!(log.events(i64::MAX, 10).await.expect("events"), []);
    assert_eq!(log.list(None, 0).await.expect("list"), []);
    assert_eq!(log.list(Some(&id(0)), 10).await.expect("list"), []);
}

#[tokio::test]
async fn after_a_flush_only_what_is_open_stays_in_memory() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path()).await;
    (0..300).for_each(|number| run(&log, number));
    assert!(log.wants_flush());
    log.start(started(1000)).expect("start");
    log.flush().await.expect("flush");
    assert!(!log.wants_flush());
    {
        let state = log.state();
        assert_eq!((state.execs.len(), state.pending.capacity(), state.waiting_bytes), (1, 0, 0));
    }
    for entry in fs::read_dir(dir.path()).expect("list") {
        let name = entry.expect("entry").file_name();
        assert!(name == "log.db" || name == "records.wal", "{name:?} is left");
    }
    log.flush().await.expect("nothing to do");
    log.event("large", json!("x".repeat(300_000))).expect("event");
    assert!(log.wants_flush(), "bytes count too");
}

#[tokio::test]
async fn ten_thousand_records() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path()).await;
    for number in 0..5_000 {
        run(&log, number);
        if number % 1_999 == 0 {
            log.flush().await.expect("flush");
        }
    }
    drop(log);
    let log = open(dir.path()).await;
    assert_complete(&all_events(&log).await, 10_000);
    log.flush().await.expect("flush");
    assert_complete(&all_events(&log).await, 10_000);
    let execs = all_execs(&log).await;
    assert_eq!(execs.len(), 5_000);
    assert!(execs.iter().rev().map(|record| &record.exec).cloned().eq((0..5_000).map(ended)));
    assert_eq!(log.execs_total(), 5_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn appends_flushes_and_reads_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Arc::new(open(dir.path()).await);
    let writers: Vec<_> = (0..4u32)
        .map(|writer| {
            let log = log.clone();
            tokio::task::spawn_blocking(move || {
                for number in 0..200 {
                    run(&log, writer * 1_000 + number);
                    assert!(log.end(ended(writer * 1_000 + number)).is_err());
                    log.event("tick", json!(number)).expect("event");
                }
            })
        })
        .collect();
    // A follower that reads as positions come sees each of them once and in order, whatever is flushed meanwhile.
    let follower = tokio::spawn({
        let log = log.clone();
        async move {
            let mut changed = log.changed();
            let mut seen = Vec::new();
            while seen.len() < 2_400 {
                let after = seen.last().copied().unwrap_or(0);
                let page = log.events(after, 50).await.expect("events");
                if page.is_empty() {
                    changed.wait_for(|newest| newest.cast_signed() > after).await.expect("the log is there");
                }
                seen.extend(page.iter().map(|event| event.seq));
            }
            seen
        }
    });
    let flusher = tokio::spawn({
        let log = log.clone();
        async move {
            while *log.changed().borrow() < 2_400 {
                log.flush().await.expect("flush");
                tokio::task::yield_now().await;
            }
        }
    });
    for writer in writers {
        writer.await.expect("writer");
    }
    flusher.await.expect("flusher");
    assert_eq!(follower.await.expect("follower"), (1..=2_400).collect::<Vec<i64>>());
    assert_eq!(all_execs(&log).await.len(), 800);
    assert!(log.open_execs().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_logs_flush_at_once() {
    let dirs: Vec<_> = (0..64).map(|_| tempfile::tempdir().expect("a directory")).collect();
    let mut logs = Vec::new();
    for dir in &dirs {
        let log = Arc::new(open(dir.path()).await);
        (0..10).for_each(|number| run(&log, number));
        logs.push(log);
    }
    let tasks: Vec<_> =
        logs.iter().cloned().map(|log| tokio::spawn(async move { log.flush().await })).collect();
    for task in tasks {
        task.await.expect("task").expect("flush");
    }
    for log in &logs {
        assert_eq!(log.waiting(), 0);
        assert_complete(&all_events(log).await, 20);
    }
    // With as many open as may be, a further one waits until one is closed.
    let mut open = Vec::new();
    for log in &logs[..CONNECTIONS] {
        open.push(log.database.open(false).await.expect("open"));
    }
    let mut one_more = std::pin::pin!(logs[CONNECTIONS].events(0, 100));
    assert_eq!(crate::log::database::free_connections(), 0);
    assert!(futures::poll!(&mut one_more).is_pending());
    open.pop().expect("open").close().await;
    assert_eq!(one_more.await.expect("events").len(), 20);
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path()).await;
    run(&log, 1);
    log.flush().await.expect("flush");
    let mut database = log.database.open(false).await.expect("open");
    sqlx::query("PRAGMA user_version = 7").execute(&mut database.connection).await.expect("set");
    database.close().await;
    log.event("more", json!(1)).expect("event");
    let error = log.flush().await.expect_err("too new");
    assert!(matches!(&error, Error::Internal { detail } if detail.contains("schema version 7")), "{error:?}");
    assert_eq!(log.waiting(), 1, "nothing is lost");
    drop(log);
    let clock = Arc::new(Ticking(AtomicI64::new(START)));
    let error = SandboxLog::open(dir.path(), sandbox(), clock).await.expect_err("too new");
    assert!(matches!(&error, Error::Internal { detail } if detail.contains("newer server")), "{error:?}");
}

#[tokio::test]
async fn pruning_takes_the_old_and_then_the_oldest() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path()).await;
    let long_ago = Timestamp::from_millisecond(0).expect("in range");
    assert_eq!(log.prune(long_ago, 0).await.expect("prune"), Pruned::default());
    assert!(!dir.path().join("log.db").exists());

    log.start(started(0)).expect("start");
    (1..1_000).for_each(|number| run(&log, number));
    log.flush().await.expect("flush");
    assert_eq!(log.prune(long_ago, u64::MAX).await.expect("prune"), Pruned::default());
    let cutoff = Timestamp::from_millisecond(START + 105).expect("in range");
    let pruned = log.prune(cutoff, u64::MAX).await.expect("prune");
    assert_eq!(pruned, Pruned { execs: 99, events: 105 });
    assert_eq!(log.get(&id(99)).await.expect("get"), None);
    assert!(log.get(&id(100)).await.expect("get").is_some());
    assert_eq!(log.events(0, 1).await.expect("events")[0].seq, 106);

    let budget = 200 * 1024;
    let pruned = log.prune(long_ago, budget).await.expect("prune");
    assert!(pruned.execs > 0 && pruned.events > 0);
    assert!(fs::metadata(dir.path().join("log.db")).expect("file").len() <= budget);
    assert!(log.get(&id(999)).await.expect("get").is_some(), "the newest stay");
    log.prune(long_ago, 0).await.expect("prune");
    assert_eq!(log.list(None, 10).await.expect("list"), [started(0)], "what is open stays");
    assert_eq!(log.event("next", json!(1)).expect("event"), 2_000);
}
