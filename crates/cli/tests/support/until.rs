//! Waiting for something that must come: looked for again and again, with a deadline.

use std::time::{Duration, Instant};

/// Far more than anything here takes; a test that reaches it has found a hang.
const DEADLINE: Duration = Duration::from_secs(60);

/// Looks until there is something.
pub(crate) async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(DEADLINE, what, look).await
}

/// The same with a deadline of its own.
pub(crate) async fn until_within<T>(
    deadline: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < deadline, "after {deadline:?}: no {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
