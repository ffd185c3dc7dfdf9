use super::*;
use std::{fs, io::Write};

#[tokio::test]
async fn a_log_comes_back_with_its_open_execs() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path()).await;
    assert_eq!(*log.changed().borrow(), 0);
    log.event("sandbox.created", json!({"by": "caller"})).expect("event");
    run(&log, 1);
    log.start(keyed(2, "k")).expect("start");
    assert_eq!(*log.changed().borrow(), 4);
    let (events, execs) = (all_events(&log).await, all_execs(&log).await);
    drop(log);

    let log = open(dir.path()).await;
    assert_eq!(log.open_execs(), [keyed(2, "k")]);
    assert!(log.is_open(&id(2)) && !log.is_open(&id(1)));
    assert_eq!(log.execs_total(), 2);
    assert_eq!((all_events(&log).await, all_execs(&log).await), (events, execs));
    assert_eq!(*log.changed().borrow(), 4);
    assert_eq!(log.end(ended(2)).expect("end"), 5);
    assert!(!dir.path().join("log.db").exists(), "nobody asked for a flush");
}

#[tokio::test]
async fn a_torn_line_is_cut_off_wherever_it_was_torn() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("records.wal");
    let log = open(dir.path()).await;
    run(&log, 1);
    let whole = fs::read(&path).expect("read");
    log.start(keyed(2, "ключ")).expect("start");
    drop(log);
    let more = fs::read(&path).expect("read");
    for length in whole.len()..more.len() {
        fs::write(&path, &more[..length]).expect("write");
        let log = open(dir.path()).await;
        assert_eq!(log.waiting(), 2, "at {length}");
        assert_eq!(fs::read(&path).expect("read"), whole, "at {length}");
        assert_eq!(log.event("next", json!(null)).expect("event"), 3);
        drop(log);
        assert_complete(&all_events(&open(dir.path()).await).await, 3);
    }
}

#[tokio::test]
async fn garbage_between_lines_is_passed_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path()).await;
    run(&log, 1);
    drop(log);
    let path = dir.path().join("records.wal");
    let mut file = fs::File::options().append(true).open(&path).expect("open");
    file.write_all(b"{\"started\":{\"seq\":3\n\0\0\0\0\n\xff\xfe\n").expect("write");
    let log = open(dir.path()).await;
    assert_eq!(log.event("next", json!([1])).expect("event"), 3);
    drop(log);
    assert_complete(&all_events(&open(dir.path()).await).await, 3);
}

#[tokio::test]
async fn an_exec_ends_exactly_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path()).await;
    run(&log, 1);
    let written = fs::read(dir.path().join("records.wal")).expect("read");
    let again = Exec { exit_code: Some(0), ..ended(1) };
    assert_eq!(log.end(again.clone()), Err(Error::ExecEnded { id: id(1).to_string() }));
    assert!(matches!(log.start(started(1)), Err(Error::Internal { .. })), "an id is used once");
    assert!(matches!(log.end(started(1).exec), Err(Error::Internal { .. })), "this is no end");
    assert!(matches!(log.end(ended(7)), Err(Error::ExecEnded { .. })), "it never started");
    assert_eq!(fs::read(dir.path().join("records.wal")).expect("read"), written);
    drop(log);
    let log = open(dir.path()).await;
    assert!(log.end(again.clone()).is_err(), "after a restart");
    log.flush().await.expect("flush");
    assert!(log.end(again.clone()).is_err(), "after a flush");
    drop(log);
    let log = open(dir.path()).await;
    assert!(log.end(again).is_err(), "after both");
    assert_eq!(log.get(&id(1)).await.expect("get").map(|record| record.exec), Some(ended(1)));
}

/// After each step of a flush the server dies; the next one has everything once, and its flush completes the work.
#[tokio::test]
async fn a_flush_may_be_killed_between_any_two_steps() {
    for steps in 0..=5 {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let log = open(dir.path()).await;
        run(&log, 1);
        log.start(keyed(2, "two")).expect("start");
        log.flush().await.expect("flush");
        log.end(ended(2)).expect("end");
        log.start(keyed(3, "three")).expect("start");
        log.event("something", json!({"n": 1})).expect("event");
        run(&log, 4);
        let (events, execs) = (all_events(&log).await, all_execs(&log).await);
        assert_complete(&events, 8);
        match steps {
            0 => {}
            1 => fs::rename(at("records.wal"), at("records.wal.flushing")).expect("step 1 alone"),
            2 => assert!(log.rotate().expect("steps 1 and 2")),
            3 | 4 => {
                assert!(log.rotate().expect("steps 1 and 2"));
                log.event("meanwhile", json!(null)).expect("event");
                log.commit().await.expect("step 3");
                if steps == 4 {
                    Wal::sync(&at("records.wal")).expect("step 4");
                }
            }
            _ => log.flush().await.expect("all"),
        }
        drop(log);

        let extra = usize::from(steps == 3 || steps == 4);
        for round in 0..3 {
            let log = open(dir.path()).await;
            let found = all_events(&log).await;
            assert_complete(&found, 8 + extra);
            assert_eq!(found[..8], events, "killed after step {steps}, round {round}");
            assert_eq!(all_execs(&log).await, execs, "killed after step {steps}, round {round}");
            assert_eq!(log.open_execs(), [keyed(3, "three")]);
            assert_eq!(log.execs_total(), 4);
            if round == 1 {
                log.flush().await.expect("flush");
                assert_eq!(log.waiting(), 0);
                assert!(!at("records.wal.flushing").exists());
                assert_eq!(all_events(&log).await[..8], events);
                assert_eq!(all_execs(&log).await, execs);
            }
        }
        let log = open(dir.path()).await;
        assert_eq!(log.event("next", json!(null)).expect("event"), 9 + i64::try_from(extra).expect("small"));
    }
}

/// A power loss may take the checkpoint with it; the database knows enough.
#[tokio::test]
async fn without_its_checkpoint_a_log_asks_the_database() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path()).await;
    run(&log, 1);
    log.start(started(2)).expect("start");
    log.flush().await.expect("flush");
    drop(log);
    fs::write(dir.path().join("records.wal"), b"").expect("lose it");
    for _ in 0..2 {
        let log = open(dir.path()).await;
        assert_eq!(log.open_execs(), [started(2)]);
        assert_eq!((*log.changed().borrow(), log.execs_total()), (3, 2));
    }
    let log = open(dir.path()).await;
    assert_eq!(log.end(ended(2)).expect("end"), 4);
    log.flush().await.expect("flush");
    assert_complete(&all_events(&log).await, 4);
}

#[tokio::test]
async fn a_log_that_cannot_be_written_says_so_and_records_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let inner = dir.path().join("sandbox");
    fs::create_dir(&inner).expect("directory");
    let log = open(&inner).await;
    fs::remove_dir(&inner).expect("gone");
    assert!(matches!(log.start(started(1)), Err(Error::Internal { .. })));
    assert!(matches!(log.event("x", json!(1)), Err(Error::Internal { .. })));
    assert_eq!((log.waiting(), log.open_execs().len(), log.execs_total()), (0, 0, 0));
    fs::create_dir(&inner).expect("directory");
    assert_eq!(log.start(started(1)).expect("start"), 1);
    fs::remove_file(inner.join("records.wal")).expect("the open file is still there");
    assert!(log.flush().await.is_err(), "there is nothing to rotate");
    assert!(log.is_open(&id(1)));
}
