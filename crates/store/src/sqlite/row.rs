//! Rows as records.

use super::fault;
use crate::{
    Record,
    words::{count, from_json, from_word, moment},
};
use isopod_model::{Error, Result, Timestamp, event::Event, sandbox::Sandbox};
use sqlx::{Row, sqlite::SqliteRow};

/// The columns that [`record`] reads, in the order of the table.
pub(super) const COLUMNS: &str = "id, owner, name, state, tier, requested_tier, template, resolved_template, \
     instance_type, limits, env, labels, metadata, promotion, keep_alive, timeout_s, idle_timeout_s, created_at, \
     started_at, expires_at, ending";

fn text(row: &SqliteRow, column: &str) -> Result<String> {
    row.try_get(column).map_err(fault)
}

fn moment_or_none(row: &SqliteRow, column: &str) -> Result<Option<Timestamp>> {
    let millis: Option<i64> = row.try_get(column).map_err(fault)?;
    millis.map(|millis| moment(column, millis)).transpose()
}

fn count_or_none(row: &SqliteRow, column: &str) -> Result<Option<u64>> {
    let number: Option<i64> = row.try_get(column).map_err(fault)?;
    number.map(|number| count(column, number)).transpose()
}

fn json_or_none<T: serde::de::DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<Option<T>> {
    let text: Option<String> = row.try_get(column).map_err(fault)?;
    text.map(|text| from_json(column, &text)).transpose()
}

/// A row of `sandboxes` as a record.
pub(super) fn record(row: &SqliteRow) -> Result<Record> {
    let sandbox = Sandbox {
        id: text(row, "id")?.parse().map_err(Error::internal)?,
        name: row.try_get("name").map_err(fault)?,
        state: from_word("state", text(row, "state")?)?,
        tier: from_word("tier", text(row, "tier")?)?,
        requested_tier: from_word("requested_tier", text(row, "requested_tier")?)?,
        template: text(row, "template")?,
        resolved_template: text(row, "resolved_template")?,
        instance_type: from_word("instance_type", text(row, "instance_type")?)?,
        limits: from_json("limits", &text(row, "limits")?)?,
        labels: from_json("labels", &text(row, "labels")?)?,
        metadata: json_or_none(row, "metadata")?,
        promotion: from_word("promotion", text(row, "promotion")?)?,
        created_at: moment("created_at", row.try_get("created_at").map_err(fault)?)?,
        started_at: moment_or_none(row, "started_at")?,
        expires_at: moment_or_none(row, "expires_at")?,
        idle_timeout_s: count_or_none(row, "idle_timeout_s")?,
        keep_alive: row.try_get::<i64, _>("keep_alive").map_err(fault)? != 0,
        ending: json_or_none(row, "ending")?,
    };
    Ok(Record {
        sandbox,
        owner: text(row, "owner")?,
        env: from_json("env", &text(row, "env")?)?,
        timeout_s: count_or_none(row, "timeout_s")?,
    })
}

/// A row of `events` as an event.
pub(super) fn event(row: &SqliteRow) -> Result<Event> {
    Ok(Event {
        seq: row.try_get("seq").map_err(fault)?,
        at: moment("at", row.try_get("at").map_err(fault)?)?,
        sandbox_id: text(row, "sandbox_id")?.parse().map_err(Error::internal)?,
        kind: text(row, "kind")?,
        data: from_json("data", &text(row, "data")?)?,
    })
}
