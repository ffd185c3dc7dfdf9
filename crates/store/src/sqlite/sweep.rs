//! Retention.

use super::{SqliteStore, fault};
use crate::Swept;
use isopod_model::{Result, Timestamp};

/// Rows removed per transaction, so that a large sweep does not keep other writers waiting.
const BATCH: i64 = 500;

impl SqliteStore {
    pub(super) async fn remove_before(&self, before: Timestamp) -> Result<Swept> {
        let mut swept = Swept::default();
        loop {
            let removed = self
                .remove_batch(
                    "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE at < $1 OR sandbox_id IN \
                     (SELECT id FROM sandboxes WHERE state = 'ended' AND ended_at < $1) LIMIT $2)",
                    before,
                )
                .await?;
            swept.events += removed;
            if removed == 0 {
                break;
            }
        }
        loop {
            let removed = self
                .remove_batch(
                    "DELETE FROM sandboxes WHERE id IN (SELECT id FROM sandboxes \
                     WHERE state = 'ended' AND ended_at < $1 LIMIT $2)",
                    before,
                )
                .await?;
            swept.sandboxes += removed;
            if removed == 0 {
                break;
            }
        }
        Ok(swept)
    }

    async fn remove_batch(&self, sql: &'static str, before: Timestamp) -> Result<u64> {
        let mut transaction = self.write().await?;
        let done = sqlx::query(sql)
            .bind(before.as_millisecond())
            .bind(BATCH)
            .execute(&mut *transaction)
            .await
            .map_err(fault)?;
        transaction.commit().await.map_err(fault)?;
        Ok(done.rows_affected())
    }
}
