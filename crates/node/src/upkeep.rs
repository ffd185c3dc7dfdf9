//! What a node does by itself: logs are flushed, journals kept within their budget, trash is emptied.

use crate::{journal, node::LocalNode};
use isopod_model::Timestamp;
use std::{
    fs,
    sync::{Arc, Weak},
    time::Duration,
};

/// How often logs are looked at.
const FLUSH_EVERY: Duration = Duration::from_secs(10);
/// How many rounds of that pass between two looks at journals and their age.
const ROUNDS_PER_SWEEP: u32 = 30;
/// How long journals and log entries of what has ended are kept.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
/// How much the journals of one sandbox may hold; the oldest go first.
const JOURNAL_BUDGET: u64 = 512 << 20;
/// How much the log of one sandbox may hold.
const LOG_BUDGET: u64 = 64 << 20;

/// Removes what deletions left when an earlier server died.
pub(crate) async fn empty_trash(node: &LocalNode) {
    let trash = node.settings.data_dir.join("trash");
    let emptied = tokio::task::spawn_blocking(move || {
        for entry in fs::read_dir(&trash)?.flatten() {
            fs::remove_dir_all(entry.path())?;
        }
        std::io::Result::Ok(())
    });
    if let Ok(Err(error)) = emptied.await {
        tracing::warn!(?error, "the trash could not be emptied");
    }
}

/// Runs for as long as the node lives.
pub(crate) fn start(node: &Arc<LocalNode>) {
    let node = Arc::downgrade(node);
    tokio::spawn(run(node));
}

async fn run(node: Weak<LocalNode>) {
    let mut round = 0u32;
    loop {
        tokio::time::sleep(FLUSH_EVERY).await;
        let Some(node) = node.upgrade() else { return };
        round = round.wrapping_add(1);
        for sandbox in node.all() {
            let sweep = round.is_multiple_of(ROUNDS_PER_SWEEP);
            let due = sandbox.log().wants_flush() || (sweep && sandbox.log().waiting() > 0);
            if due && let Err(error) = sandbox.log().flush().await {
                tracing::warn!(sandbox = %sandbox.id(), ?error, "a sandbox's log could not be flushed");
            }
            if sweep {
                let older_than = std::time::SystemTime::from(node.clock.now()) - RETENTION;
                let (directory, kept) = (sandbox.place.journals.clone(), Arc::clone(&sandbox));
                let swept = tokio::task::spawn_blocking(move || {
                    let may_go = |exec: &isopod_model::ExecId| kept.live_exec(exec).is_none();
                    journal::sweep(&directory, JOURNAL_BUDGET, older_than, may_go)
                });
                if let Ok(Err(error)) = swept.await {
                    tracing::warn!(sandbox = %sandbox.id(), ?error, "a sandbox's journals could not be swept");
                }
                let before = Timestamp::try_from(older_than).unwrap_or(Timestamp::UNIX_EPOCH);
                if let Err(error) = sandbox.log().prune(before, LOG_BUDGET).await {
                    tracing::warn!(sandbox = %sandbox.id(), ?error, "a sandbox's log could not be pruned");
                }
            }
        }
    }
}
