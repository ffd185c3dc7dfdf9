//! Tests of the journal: against a model, against SIGKILL, against full disks, and on each file system.

mod crash;
mod disks;
mod limits;
mod model;
mod sweeping;

use super::{JournalReader, JournalWriter, Pumped};
use isopod_model::{ExecId, exec::OutputStream};
use rustix::pipe::{PipeFlags, pipe_with};
use std::{
    io::Write,
    os::fd::{AsFd, OwnedFd},
};

/// An exec id that differs for each number.
fn exec(number: u32) -> ExecId {
    format!("ex{number:020}").parse().expect("digits are in the alphabet")
}

fn pipe() -> (OwnedFd, std::fs::File) {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
    (read, write.into())
}

/// Byte at `offset` of the sequence that tests write: no two stretches of it look alike.
fn byte(offset: u64) -> u8 {
    let mixed = (offset / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.rotate_left((offset % 8) as u32 * 8).to_le_bytes()[3]
}

fn sequence(range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(byte).collect()
}

/// Writes to the pipe and pumps until all of it is in the journal.
fn feed(writer: &mut JournalWriter, read: &OwnedFd, write: &mut std::fs::File, data: &[u8]) {
    for chunk in data.chunks(32 * 1024) {
        write.write_all(chunk).expect("the pipe is empty and holds 64 KiB");
        while writer.pump(read.as_fd(), 64 * 1024).expect("pump") != Pumped::WouldBlock {}
    }
}

/// Everything that the journal holds, as ranges with their bytes.
fn held(reader: &JournalReader, total: u64, max: usize) -> Vec<(u64, Vec<u8>)> {
    let mut ranges: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut offset = 0;
    while offset < total {
        let piece = reader.read(offset, max, total).expect("read");
        assert!(piece.start >= offset && piece.data.len() <= max);
        if piece.data.is_empty() {
            assert_eq!(piece.start, total, "an empty piece means that nothing comes any more");
        } else if piece.start == offset && offset > 0 && !ranges.is_empty() {
            ranges.last_mut().expect("not empty").1.extend_from_slice(&piece.data);
        } else {
            ranges.push((piece.start, piece.data.to_vec()));
        }
        offset = piece.start + piece.data.len() as u64;
    }
    ranges
}

const OUT: OutputStream = OutputStream::Stdout;
const ERR: OutputStream = OutputStream::Stderr;
