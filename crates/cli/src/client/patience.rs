//! How long to go on trying when the connection to the server breaks.

use std::time::Duration;
use tokio::time::Instant;

/// A server that restarts is back within this time; one that is not is not coming back by itself.
const LIMIT: Duration = Duration::from_secs(60);
/// A connection that lived this long was a good one, and the next break is a new one.
const HELD: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Counts down while connections break without anything being achieved.
#[derive(Debug)]
pub(crate) struct Patience {
    broken_since: Option<Instant>,
    pause: Duration,
    signs: Option<(Instant, Instant)>,
}

impl Patience {
    /// Full patience.
    pub(crate) fn new() -> Self {
        Self { broken_since: None, pause: FIRST_PAUSE, signs: None }
    }

    /// Something was achieved.
    pub(crate) fn renew(&mut self) {
        self.broken_since = None;
        self.pause = FIRST_PAUSE;
    }

    /// The present connection is alive.
    pub(crate) fn sign(&mut self) {
        let now = Instant::now();
        self.signs = Some((self.signs.map_or(now, |(first, _)| first), now));
    }

    /// Waits before the next try; false when patience is at its end.
    pub(crate) async fn wait(&mut self) -> bool {
        if self.signs.take().is_some_and(|(first, last)| last - first >= HELD) {
            self.renew();
        }
        let since = *self.broken_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= LIMIT {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn end(patience: &mut Patience) -> Duration {
        let begin = Instant::now();
        while patience.wait().await {
            // The server accepts and drops each connection: no achievement.
            patience.sign();
        }
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_after_a_minute_of_breaks() {
        let mut patience = Patience::new();
        let lasted = end(&mut patience).await;
        assert!(lasted >= LIMIT && lasted < LIMIT + LONGEST_PAUSE, "{lasted:?}");
        assert!(!patience.wait().await);
    }

    #[tokio::test(start_paused = true)]
    async fn achievements_and_long_connections_renew_it() {
        let mut patience = Patience::new();
        end(&mut patience).await;
        patience.renew();
        assert!(end(&mut patience).await >= LIMIT);
        patience.sign();
        tokio::time::advance(HELD).await;
        patience.sign();
        assert!(end(&mut patience).await >= LIMIT);
    }
}
