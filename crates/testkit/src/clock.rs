//! Time and randomness that tests decide.

use isopod_model::{Clock, Entropy, Timestamp};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

/// A clock that moves only when it is told to.
#[derive(Debug)]
pub struct ManualClock {
    millis: AtomicI64,
}

impl ManualClock {
    /// A clock that shows 2026-01-01T00:00:00Z.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { millis: AtomicI64::new(1_767_225_600_000) })
    }

    /// Moves it on, in whole milliseconds.
    pub fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).expect("tests do not wait for 292 million years");
        self.millis.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.millis.load(Ordering::SeqCst)).expect("within jiff's range")
    }
}

/// Randomness that is the same in every run.
#[derive(Debug)]
pub struct SeededEntropy {
    generator: Mutex<fastrand::Rng>,
}

impl SeededEntropy {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { generator: Mutex::new(fastrand::Rng::with_seed(seed)) })
    }
}

impl Entropy for SeededEntropy {
    fn bits(&self) -> u64 {
        self.generator.lock().unwrap_or_else(PoisonError::into_inner).u64(..)
    }
}
