//! A child process pumps and is killed, again and again; this process keeps the pipe, as the launcher does.

use super::*;
use std::{
    env, fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

const CHILD: &str = "ISOPOD_TEST_JOURNAL_CHILD";

/// Not a test of its own: what the child of the tests below runs, with the pipe as its standard input.
#[test]
fn child() {
    let Ok(task) = env::var(CHILD) else { return };
    let (limit, dir) = task.split_once(' ').expect("limit and directory");
    let limit = limit.parse().expect("a number");
    let mut writer = JournalWriter::open(Path::new(dir), &exec(1), OUT, limit).expect("open");
    let stdin = std::io::stdin();
    loop {
        // A small and odd budget: many calls, offsets that are not aligned.
        match writer.pump(stdin.as_fd(), 3001).expect("pump") {
            Pumped::Moved(_) => {}
            Pumped::WouldBlock => thread::yield_now(),
            Pumped::Eof => return,
        }
    }
}

fn start_child(dir: &Path, limit: u64, read: &OwnedFd) -> Child {
    let module = module_path!().split_once("::").expect("crate and path").1;
    Command::new(env::current_exe().expect("this program"))
        .args(["--exact", &format!("{module}::child"), "--nocapture"])
        .env(CHILD, format!("{limit} {}", dir.display()))
        .stdin(Stdio::from(read.try_clone().expect("dup")))
        .stdout(Stdio::null())
        .spawn()
        .expect("the test program starts")
}

fn newest(dir: &Path) -> u64 {
    JournalReader::new(dir, &exec(1), OUT).total().expect("total")
}

/// Kills the child 30 times while a feeder writes; returns the directory and how much was written.
fn killed_thirty_times(limit: u64) -> (tempfile::TempDir, u64) {
    const ROUNDS: u64 = 30;
    const TOTAL: u64 = 12_000_000;
    let dir = tempfile::tempdir().expect("a directory");
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let feeder = thread::spawn(move || {
        let mut pipe = fs::File::from(write);
        let mut sent = 0;
        let mut length = 1;
        while sent < TOTAL {
            length = (length * 7 + 13) % 20_011 + 1;
            let end = (sent + length).min(TOTAL);
            pipe.write_all(&sequence(sent..end)).expect("the reading end is open");
            sent = end;
        }
    });
    let mut kills = 0;
    for round in 0..ROUNDS {
        let mut child = start_child(dir.path(), limit, &read);
        // Somewhere in the next stretch of output; where exactly is up to the scheduler.
        let target = newest(dir.path()) + 1 + fastrand::u64(0..TOTAL / ROUNDS);
        while newest(dir.path()) < target.min(TOTAL) && child.try_wait().expect("wait").is_none() {
            thread::yield_now();
        }
        child.kill().expect("kill");
        if child.wait().expect("wait").code().is_none() {
            kills += 1;
        }
        assert!(round + 1 < ROUNDS || kills > ROUNDS / 2, "the children were hardly ever killed: {kills}");
    }
    let mut last = start_child(dir.path(), limit, &read);
    feeder.join().expect("feeder");
    assert!(last.wait().expect("wait").success());
    (dir, TOTAL)
}

#[test]
fn nothing_is_lost_or_doubled_when_the_pump_is_killed() {
    let (dir, total) = killed_thirty_times(64 << 20);
    let reader = JournalReader::new(dir.path(), &exec(1), OUT);
    assert_eq!(reader.total().expect("total"), total);
    let ranges = held(&reader, total, 1 << 20);
    assert_eq!(ranges.len(), 1);
    assert!(ranges[0].1 == sequence(0..total), "the content differs");
}

#[test]
fn head_and_tail_are_right_when_the_pump_is_killed() {
    let limit = 64 * 1024;
    let (dir, total) = killed_thirty_times(limit);
    let reader = JournalReader::new(dir.path(), &exec(1), OUT);
    assert_eq!(reader.total().expect("total"), total);
    let ranges = held(&reader, total, 1 << 20);
    assert_eq!(ranges.len(), 2);
    for (start, data) in ranges {
        assert!(data == sequence(start..start + data.len() as u64), "the content at {start} differs");
    }
    assert!(super::super::usage(dir.path()).expect("usage") <= limit);
}
