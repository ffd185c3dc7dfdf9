use super::*;
use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

#[test]
fn a_silent_exec_has_no_file_and_the_first_byte_makes_the_directory() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("execs");
    let (read, mut write) = pipe();
    let mut writer = JournalWriter::create(&dir, &exec(1), OUT, 4096).expect("create");
    assert_eq!(writer.pump(read.as_fd(), 4096).expect("pump"), Pumped::WouldBlock);
    assert!(!dir.exists());
    write.write_all(b"x").expect("write");
    assert_eq!(writer.pump(read.as_fd(), 4096).expect("pump"), Pumped::Moved(1));
    assert_eq!(std::fs::read_dir(&dir).expect("made").count(), 1);
    drop(write);
    assert_eq!(writer.pump(read.as_fd(), 4096).expect("pump"), Pumped::Eof);

    let mut silent = JournalWriter::create(&dir, &exec(1), ERR, 4096).expect("create");
    assert_eq!(silent.pump(read.as_fd(), 4096).expect("pump"), Pumped::Eof);
    assert_eq!(std::fs::read_dir(&dir).expect("there").count(), 1);
    let reader = JournalReader::new(&dir, &exec(1), ERR);
    assert_eq!(reader.total().expect("total"), 0);
    assert!(reader.read(0, 10, 0).expect("read").data.is_empty());
}

#[test]
fn offsets_beyond_the_total_give_nothing_at_the_total() {
    let dir = tempfile::tempdir().expect("a directory");
    let (read, mut write) = pipe();
    let mut writer = JournalWriter::create(dir.path(), &exec(1), OUT, 4096).expect("create");
    feed(&mut writer, &read, &mut write, b"hello");
    let reader = JournalReader::new(dir.path(), &exec(1), OUT);
    for offset in [5, 6, u64::MAX] {
        let piece = reader.read(offset, 100, 5).expect("read");
        assert_eq!((piece.start, piece.data.len()), (5, 0));
    }
    assert_eq!(reader.read(0, 100, 3).expect("read").data, "hel", "not beyond the total");
    assert_eq!(reader.read(2, 2, 5).expect("read").data, "ll");
}

#[test]
fn something_that_is_no_pipe_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let file: OwnedFd = tempfile::tempfile().expect("a file").into();
    let mut writer = JournalWriter::create(dir.path(), &exec(1), OUT, 4096).expect("create");
    assert!(writer.pump(file.as_fd(), 100).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 0);
}

/// 200 MB through a limit of 1 MiB, read by two concurrent readers: one that keeps up as well as it can, and one
/// that jumps about. What they see is right wherever they see it.
#[test]
fn two_hundred_megabytes_through_one() {
    const TOTAL: u64 = 200_000_000;
    const LIMIT: u64 = 1024 * 1024;
    let dir = tempfile::tempdir().expect("a directory");
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let block = sequence(0..TOTAL.min(8 << 20));
    let truth = Arc::new(block);
    let total = Arc::new(AtomicU64::new(0));
    let feeder = thread::spawn({
        let block = truth.clone();
        move || {
            let mut pipe = std::fs::File::from(write);
            let mut sent = 0;
            while sent < TOTAL {
                let at = (sent % block.len() as u64) as usize;
                let length = (block.len() - at).min((TOTAL - sent) as usize).min(100_003);
                pipe.write_all(&block[at..at + length]).expect("somebody reads");
                sent += length as u64;
            }
        }
    });
    let readers: Vec<_> = [false, true]
        .into_iter()
        .map(|jumping| {
            let (truth, total) = (truth.clone(), total.clone());
            let reader = JournalReader::new(dir.path(), &exec(1), OUT);
            thread::spawn(move || {
                let mut offset = 0;
                while offset < TOTAL {
                    let known = total.load(Ordering::Acquire);
                    let piece = reader.read(offset, 256 * 1024, known).expect("read");
                    for (index, chunk) in piece.data.chunks(4099).enumerate() {
                        let at = (piece.start + index as u64 * 4099) % truth.len() as u64;
                        let at = at as usize;
                        let room = chunk.len().min(truth.len() - at);
                        assert_eq!(chunk[..room], truth[at..at + room]);
                        assert_eq!(chunk[room..], truth[..chunk.len() - room]);
                    }
                    offset = piece.start + piece.data.len() as u64;
                    if jumping {
                        offset += 777_777;
                        while total.load(Ordering::Acquire) < offset.min(TOTAL) {
                            thread::yield_now();
                        }
                    }
                }
            })
        })
        .collect();
    let mut writer = JournalWriter::create(dir.path(), &exec(1), OUT, LIMIT).expect("create");
    loop {
        match writer.pump(read.as_fd(), 1 << 20).expect("pump") {
            Pumped::Moved(_) => total.store(writer.total(), Ordering::Release),
            Pumped::WouldBlock => thread::yield_now(),
            Pumped::Eof => break,
        }
        assert!(super::super::usage(dir.path()).expect("usage") <= LIMIT);
    }
    feeder.join().expect("feeder");
    for reader in readers {
        reader.join().expect("reader");
    }
    assert_eq!((writer.total(), writer.lost()), (TOTAL, 0));
    let reader = JournalReader::new(dir.path(), &exec(1), OUT);
    assert_eq!(reader.total().expect("total"), TOTAL);
    let ranges = held(&reader, TOTAL, 1 << 20);
    assert_eq!(ranges.len(), 2, "head and tail");
    assert_eq!(ranges[0].1.len() as u64, LIMIT * 3 / 4);
    assert!(ranges[1].1.len() as u64 >= LIMIT / 8);
    assert_eq!(ranges[1].0 + ranges[1].1.len() as u64, TOTAL);
}
