//! Tests of the log.

mod crash;
mod disk;
mod flushing;
mod reading;
mod recovery;

use super::*;
use isopod_model::{EndReason, Timestamp, event::Event, sandbox::Tier};
use serde_json::json;
use std::sync::atomic::{AtomicI64, Ordering};

/// A clock that goes on by a millisecond each time it is asked.
#[derive(Debug)]
struct Ticking(AtomicI64);

impl Clock for Ticking {
    fn now(&self) -> Timestamp {
        let millis = self.0.fetch_add(1, Ordering::Relaxed);
        Timestamp::from_millisecond(millis).expect("in range")
    }
}

const START: i64 = 1_763_000_000_000;

fn sandbox() -> SandboxId {
    "sb00000000000000000001".parse().expect("an id")
}

async fn open(dir: &Path) -> SandboxLog {
    let clock = Arc::new(Ticking(AtomicI64::new(START)));
    SandboxLog::open(dir, sandbox(), clock).await.expect("open")
}

fn id(number: u32) -> ExecId {
    format!("ex{number:020}").parse().expect("an id")
}

fn started(number: u32) -> ExecRecord {
    ExecRecord {
        exec: Exec {
            id: id(number),
            sandbox_id: sandbox(),
            argv: vec!["echo".into(), format!("number {number}")],
            cwd: "/workspace".into(),
            user: "user".into(),
            background: false,
            state: ExecState::Running,
            tier: Tier::Container,
            started_at: Timestamp::from_millisecond(START + i64::from(number)).expect("in range"),
            ended_at: None,
            duration_ms: 0.0,
            timeout_ms: None,
            reason: None,
            exit_code: None,
            signal: None,
            success: false,
            detail: None,
            stdout_bytes: 0,
            stderr_bytes: 0,
        },
        idempotency: None,
        stdin_open: false,
    }
}

fn keyed(number: u32, key: &str) -> ExecRecord {
    let idempotency = Some(Idempotency { key: key.into(), request_hash: format!("hash of {key}") });
    ExecRecord { idempotency, ..started(number) }
}

fn ended(number: u32) -> Exec {
    Exec {
        state: ExecState::Ended,
        ended_at: Some(Timestamp::from_millisecond(START + i64::from(number) + 5).expect("in range")),
        duration_ms: 4.75,
        reason: Some(EndReason::Exited),
        exit_code: Some(3),
        stdout_bytes: 17,
        ..started(number).exec
    }
}

fn run(log: &SandboxLog, number: u32) {
    log.start(started(number)).expect("start");
    log.end(ended(number)).expect("end");
}

/// All events, read in small pages.
async fn all_events(log: &SandboxLog) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    loop {
        let after = events.last().map_or(0, |event| event.seq);
        let page = log.events(after, 97).await.expect("events");
        if page.is_empty() {
            return events;
        }
        events.extend(page);
    }
}

/// All execs, newest first, read in small pages.
async fn all_execs(log: &SandboxLog) -> Vec<ExecRecord> {
    let mut execs: Vec<ExecRecord> = Vec::new();
    loop {
        let before = execs.last().map(|record| record.exec.id.clone());
        let page = log.list(before.as_ref(), 89).await.expect("list");
        if page.is_empty() {
            return execs;
        }
        execs.extend(page);
    }
}

/// The positions are 1, 2, 3, … without a hole or a double.
fn assert_complete(events: &[Event], count: usize) {
    let positions: Vec<i64> = events.iter().map(|event| event.seq).collect();
    assert_eq!(positions, (1..=i64::try_from(count).expect("small")).collect::<Vec<_>>());
}
