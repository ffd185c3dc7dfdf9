//! Saving and finding sandboxes.

use super::{
    SqliteStore, events, fault,
    row::{self, COLUMNS},
};
use crate::{
    ListQuery, NewEvent, Record,
    words::{integer, json, word},
};
use isopod_model::{Error, Result, SandboxId, Timestamp};
use sqlx::{AssertSqlSafe, SqliteConnection, sqlite::SqliteRow};
use std::collections::BTreeMap;

/// Replaces the labels that sandboxes are found by.
pub(super) async fn save_labels(
    connection: &mut SqliteConnection,
    id: &SandboxId,
    labels: &BTreeMap<String, String>,
) -> Result<()> {
    sqlx::query("DELETE FROM labels WHERE sandbox_id = $1")
        .bind(id.as_str())
        .execute(&mut *connection)
        .await
        .map_err(fault)?;
    insert_labels(connection, id, labels).await
}

async fn insert_labels(
    connection: &mut SqliteConnection,
    id: &SandboxId,
    labels: &BTreeMap<String, String>,
) -> Result<()> {
    for (key, value) in labels {
        sqlx::query("INSERT INTO labels (sandbox_id, key, value) VALUES ($1, $2, $3)")
            .bind(id.as_str())
            .bind(key)
            .bind(value)
            .execute(&mut *connection)
            .await
            .map_err(fault)?;
    }
    Ok(())
}

async fn insert_row(connection: &mut SqliteConnection, record: &Record) -> Result<()> {
    let sandbox = &record.sandbox;
    let seconds = |column, value: Option<u64>| value.map(|value| integer(column, value)).transpose();
    let sql = format!(
        "INSERT INTO sandboxes ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, \
         $14, $15, $16, $17, $18, $19, $20, $21)"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(sandbox.id.as_str())
        .bind(&record.owner)
        .bind(sandbox.name.as_deref())
        .bind(sandbox.state.as_str())
        .bind(sandbox.tier.as_str())
        .bind(word(&sandbox.requested_tier)?)
        .bind(&sandbox.template)
        .bind(&sandbox.resolved_template)
        .bind(word(&sandbox.instance_type)?)
        .bind(json(&sandbox.limits)?)
        .bind(json(&record.env)?)
        .bind(json(&sandbox.labels)?)
        .bind(sandbox.metadata.as_ref().map(json).transpose()?)
        .bind(word(&sandbox.promotion)?)
        .bind(i64::from(sandbox.keep_alive))
        .bind(seconds("timeout_s", record.timeout_s)?)
        .bind(seconds("idle_timeout_s", sandbox.idle_timeout_s)?)
        .bind(sandbox.created_at.as_millisecond())
        .bind(sandbox.started_at.map(Timestamp::as_millisecond))
        .bind(sandbox.expires_at.map(Timestamp::as_millisecond))
        .bind(sandbox.ending.as_ref().map(json).transpose()?)
        .execute(connection)
        .await
        .map_err(fault)?;
    Ok(())
}

fn records(rows: &[SqliteRow]) -> Result<Vec<Record>> {
    rows.iter().map(row::record).collect()
}

impl SqliteStore {
    pub(super) async fn insert_sandbox(&self, record: &Record, event: &NewEvent) -> Result<()> {
        let mut transaction = self.write().await?;
        if let Some(name) = &record.sandbox.name {
            // Within the write lock, so the answer holds until the commit; the unique index is the second guard.
            let holder: Option<String> = sqlx::query_scalar(
                "SELECT id FROM sandboxes WHERE owner = $1 AND name = $2 AND state <> 'ended'",
            )
            .bind(&record.owner)
            .bind(name)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(fault)?;
            if let Some(id) = holder {
                return Err(Error::NameTaken { name: name.clone(), id });
            }
        }
        insert_row(&mut transaction, record).await?;
        insert_labels(&mut transaction, &record.sandbox.id, &record.sandbox.labels).await?;
        events::append(&mut transaction, &record.sandbox.id, event).await?;
        transaction.commit().await.map_err(fault)
    }

    pub(super) async fn sandbox(&self, id: &SandboxId) -> Result<Option<Record>> {
        let sql = format!("SELECT {COLUMNS} FROM sandboxes WHERE id = $1");
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await
            .map_err(fault)?;
        row.as_ref().map(row::record).transpose()
    }

    pub(super) async fn sandbox_of_name(&self, owner: &str, name: &str) -> Result<Option<Record>> {
        let sql =
            format!("SELECT {COLUMNS} FROM sandboxes WHERE owner = $1 AND name = $2 AND state <> 'ended'");
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(owner)
            .bind(name)
            .fetch_optional(&self.readers)
            .await
            .map_err(fault)?;
        row.as_ref().map(row::record).transpose()
    }

    pub(super) async fn live_sandboxes(&self) -> Result<Vec<Record>> {
        let sql = format!("SELECT {COLUMNS} FROM sandboxes WHERE state <> 'ended' ORDER BY id");
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&self.readers).await.map_err(fault)?;
        records(&rows)
    }

    pub(super) async fn list_sandboxes(&self, query: &ListQuery) -> Result<Vec<Record>> {
        // Only placeholders are put together here; every value is bound.
        let mut sql = format!("SELECT {COLUMNS} FROM sandboxes WHERE owner = $1");
        let mut texts = vec![query.owner.clone()];
        match query.state {
            Some(state) => {
                texts.push(state.as_str().to_owned());
                sql += &format!(" AND state = ${}", texts.len());
            }
            None => sql += " AND state <> 'ended'",
        }
        if let Some(before) = &query.before {
            texts.push(before.to_string());
            sql += &format!(" AND id < ${}", texts.len());
        }
        for (key, value) in &query.labels {
            texts.extend([key.clone(), value.clone()]);
            let (key, value) = (texts.len() - 1, texts.len());
            sql += &format!(
                " AND EXISTS (SELECT 1 FROM labels \
                 WHERE sandbox_id = sandboxes.id AND key = ${key} AND value = ${value})"
            );
        }
        let sql = format!("{sql} ORDER BY id DESC LIMIT ${}", texts.len() + 1);
        let mut prepared = sqlx::query(AssertSqlSafe(sql));
        for text in texts {
            prepared = prepared.bind(text);
        }
        let rows = prepared.bind(i64::from(query.limit)).fetch_all(&self.readers).await.map_err(fault)?;
        records(&rows)
    }
}
