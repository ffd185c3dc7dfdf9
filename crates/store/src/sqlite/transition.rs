//! Steps along the lifecycle table, and changes that callers may make.

use super::{
    SqliteStore, events, fault,
    row::{self, COLUMNS},
    sandboxes,
};
use crate::{
    NewEvent, Record, Transition, Update,
    words::{from_word, integer, json},
};
use isopod_model::{Error, Result, SandboxId, SandboxState, Timestamp};
use sqlx::{AssertSqlSafe, SqliteConnection};

async fn state_of(connection: &mut SqliteConnection, id: &SandboxId) -> Result<SandboxState> {
    let word: Option<String> = sqlx::query_scalar("SELECT state FROM sandboxes WHERE id = $1")
        .bind(id.as_str())
        .fetch_optional(connection)
        .await
        .map_err(fault)?;
    from_word("state", word.ok_or_else(|| Error::NotFound { what: "sandbox", id: id.to_string() })?)
}

/// Takes the step if the state is one of the expected ones: the comparison and the change are one statement.
async fn compare_and_set(connection: &mut SqliteConnection, step: &Transition) -> Result<Option<Record>> {
    let ended_at = (step.to == SandboxState::Ended).then(|| step.event.at.as_millisecond());
    let clears_ending = i64::from(step.to == SandboxState::Running);
    let expected: Vec<String> = (0..step.from.len()).map(|number| format!("${}", number + 7)).collect();
    let sql = format!(
        "UPDATE sandboxes SET state = $1, started_at = COALESCE($2, started_at), \
         ended_at = COALESCE($3, ended_at), \
         ending = CASE WHEN $4 = 1 THEN NULL ELSE COALESCE($5, ending) END \
         WHERE id = $6 AND state IN ({}) RETURNING {COLUMNS}",
        expected.join(", ")
    );
    let mut update = sqlx::query(AssertSqlSafe(sql))
        .bind(step.to.as_str())
        .bind(step.started_at.map(Timestamp::as_millisecond))
        .bind(ended_at)
        .bind(clears_ending)
        .bind(step.ending.as_ref().map(json).transpose()?)
        .bind(step.id.as_str());
    for state in &step.from {
        update = update.bind(state.as_str());
    }
    let row = update.fetch_optional(connection).await.map_err(fault)?;
    row.as_ref().map(row::record).transpose()
}

impl SqliteStore {
    pub(super) async fn change_state(&self, step: &Transition) -> Result<Record> {
        if let Some(from) = step.from.iter().find(|from| !from.may_become(step.to)) {
            let (from, to) = (from.as_str(), step.to.as_str());
            return Err(Error::internal(format!("store: {from} may not become {to} ({})", step.id)));
        }
        let mut transaction = self.write().await?;
        let Some(record) = compare_and_set(&mut transaction, step).await? else {
            let state = state_of(&mut transaction, &step.id).await?;
            return Err(Error::WrongState { state, hint: "it changed in the meantime; look at it again" });
        };
        events::append(&mut transaction, &step.id, &step.event).await?;
        transaction.commit().await.map_err(fault)?;
        Ok(record)
    }

    pub(super) async fn update_sandbox(
        &self,
        id: &SandboxId,
        update: &Update,
        event: &NewEvent,
    ) -> Result<Record> {
        let mut transaction = self.write().await?;
        let state = state_of(&mut transaction, id).await?;
        if state == SandboxState::Ended {
            return Err(Error::WrongState { state, hint: "what has ended cannot be changed" });
        }
        let seconds = |column, value: Option<u64>| value.map(|value| integer(column, value)).transpose();
        let sql = format!(
            "UPDATE sandboxes SET labels = $1, metadata = $2, timeout_s = $3, expires_at = $4, \
             idle_timeout_s = $5, keep_alive = $6 WHERE id = $7 RETURNING {COLUMNS}"
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(json(&update.labels)?)
            .bind(update.metadata.as_ref().map(json).transpose()?)
            .bind(seconds("timeout_s", update.timeout_s)?)
            .bind(update.expires_at.map(Timestamp::as_millisecond))
            .bind(seconds("idle_timeout_s", update.idle_timeout_s)?)
            .bind(i64::from(update.keep_alive))
            .bind(id.as_str())
            .fetch_one(&mut *transaction)
            .await
            .map_err(fault)?;
        let record = row::record(&row)?;
        sandboxes::save_labels(&mut transaction, id, &update.labels).await?;
        events::append(&mut transaction, id, event).await?;
        transaction.commit().await.map_err(fault)?;
        Ok(record)
    }
}
