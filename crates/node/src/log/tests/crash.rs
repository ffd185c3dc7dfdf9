//! A child process appends and flushes and is killed; what it was told is written is there, once.

use super::*;
use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

const CHILD: &str = "ISOPOD_TEST_LOG_CHILD";

/// Not a test of its own: what the child below runs. Says each position it was given.
#[test]
fn child() {
    let Ok(dir) = env::var(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("runtime");
    runtime.block_on(async {
        let log = Arc::new(open(Path::new(&dir)).await);
        tokio::spawn({
            let log = log.clone();
            async move {
                loop {
                    log.flush().await.expect("flush");
                    tokio::task::yield_now().await;
                }
            }
        });
        for record in log.open_execs() {
            let number = record.exec.id.as_str()[2..].parse().expect("a number");
            say(log.end(ended(number)).expect("end"), "ended", number);
        }
        loop {
            let number = u32::try_from(log.execs_total()).expect("small");
            say(log.start(started(number)).expect("start"), "started", number);
            say(log.end(ended(number)).expect("end"), "ended", number);
        }
    });
}

fn say(seq: i64, what: &str, number: u32) {
    writeln!(std::io::stderr(), "{seq} {what} {number}").expect("the parent listens");
}

#[tokio::test]
async fn what_was_acknowledged_is_there_once_after_a_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let module = module_path!().split_once("::").expect("crate and path").1;
    let mut acknowledged = BTreeMap::new();
    for _ in 0..12 {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(["--exact", &format!("{module}::child"), "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the test program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).split(b'\n');
        let said = lines.by_ref().take(fastrand::usize(1..400)).collect::<Vec<_>>();
        child.kill().expect("kill");
        child.wait().expect("wait");
        for line in said.into_iter().chain(lines) {
            let line = String::from_utf8(line.expect("read")).expect("text");
            let mut words = line.split(' ');
            // The last line may be torn by the kill.
            if let (Some(seq), Some(what), Some(number)) = (words.next(), words.next(), words.next()) {
                let seq: i64 = seq.parse().unwrap_or_else(|_| panic!("the child says {line}"));
                let before = acknowledged.insert(seq, (what.to_owned(), number.to_owned()));
                assert_eq!(before, None, "position {seq} was given twice");
            }
        }
    }
    let log = open(dir.path()).await;
    let events = all_events(&log).await;
    assert_complete(&events, events.len());
    assert!(acknowledged.len() > 12);
    for (seq, (what, number)) in &acknowledged {
        let event = &events[usize::try_from(*seq - 1).expect("small")];
        assert_eq!(event.kind, format!("exec.{what}"));
        let known: u32 = event.data["exec_id"].as_str().expect("id")[2..].parse().expect("a number");
        assert!(known.to_string().starts_with(number.as_str()), "{known} {number}");
    }
    let execs = all_execs(&log).await;
    assert_eq!(execs.len() as u64, log.execs_total());
    assert!(log.open_execs().len() <= 1);
}
