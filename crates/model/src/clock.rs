//! Time and randomness are parameters: rooms take a [`Clock`] and an [`Entropy`] instead of asking the system.

/// A moment, serialised as RFC 3339 in UTC.
pub type Timestamp = jiff::Timestamp;

/// Where a room learns what time it is.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The current moment.
    fn now(&self) -> Timestamp;
}

/// Where a room gets its random bits (for ids and tokens).
pub trait Entropy: Send + Sync + std::fmt::Debug {
    /// 64 unpredictable bits.
    fn bits(&self) -> u64;
}
