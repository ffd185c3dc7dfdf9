//! How far a copy is: a bar on a terminal, and the sums at the end.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::{
    io::IsTerminal,
    sync::atomic::{AtomicU64, Ordering},
};

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Summary {
    /// Files.
    pub(super) files: u64,
    /// Directories made.
    pub(super) directories: u64,
    /// Bytes of the files' contents.
    pub(super) bytes: u64,
    /// Links and special files that were left out.
    pub(super) skipped: u64,
}

/// Counts, and shows a bar on standard error if that is a terminal.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    files: AtomicU64,
    directories: AtomicU64,
    bytes: AtomicU64,
    skipped: AtomicU64,
}

impl Progress {
    /// Nothing copied yet.
    pub(super) fn new() -> Self {
        let bar = ProgressBar::no_length();
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        bar.set_draw_target(target);
        Self {
            bar,
            files: AtomicU64::new(0),
            directories: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
        }
    }

    /// How many bytes are to come in all; unknown when absent.
    pub(super) fn expect(&self, total: Option<u64>) {
        let template = match total {
            Some(total) => {
                self.bar.set_length(total);
                "{wide_bar} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta}"
            }
            None => "{spinner} {binary_bytes}  {binary_bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
    }

    /// Bytes went over.
    pub(super) fn bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        self.bar.inc(count as u64);
    }

    /// A file is whole.
    pub(super) fn file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    /// A directory was made.
    pub(super) fn directory(&self) {
        self.directories.fetch_add(1, Ordering::Relaxed);
    }

    /// Something was left out.
    pub(super) fn skipped(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the bar away; the sums.
    pub(super) fn finish(&self) -> Summary {
        self.bar.finish_and_clear();
        Summary {
            files: self.files.load(Ordering::Relaxed),
            directories: self.directories.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
        }
    }
}
