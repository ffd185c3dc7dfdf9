//! Reading: memory first, then the database, so that what a flush moves meanwhile is seen at least once; what is
//! seen twice is taken from memory.

use super::{SandboxLog, record::ExecRecord};
use isopod_model::{ExecId, Result, event::Event};
use std::{cmp::Reverse, collections::BTreeMap};

impl SandboxLog {
    /// One exec; none when this log does not know it.
    ///
    /// # Errors
    /// [`Error::Internal`](isopod_model::Error::Internal): the database cannot be read.
    pub async fn get(&self, exec: &ExecId) -> Result<Option<ExecRecord>> {
        {
            let state = self.state();
            let known = state.execs.get(exec).cloned();
            if known.is_some() || !state.has_database {
                return Ok(known);
            }
        }
        self.database.get(exec).await
    }

    /// The exec that was started with this `Idempotency-Key`, if any.
    ///
    /// # Errors
    /// [`Error::Internal`](isopod_model::Error::Internal): the database cannot be read.
    pub async fn find_key(&self, key: &str) -> Result<Option<ExecRecord>> {
        {
            let state = self.state();
            let matches = |record: &&ExecRecord| {
                record.idempotency.as_ref().is_some_and(|idempotency| idempotency.key == key)
            };
            let known = state.execs.values().find(matches).cloned();
            if known.is_some() || !state.has_database {
                return Ok(known);
            }
        }
        self.database.find_key(key).await
    }

    /// At most `limit` execs, newest first, of those older than `before`.
    ///
    /// # Errors
    /// [`Error::Internal`](isopod_model::Error::Internal): the database cannot be read.
    pub async fn list(&self, before: Option<&ExecId>, limit: u32) -> Result<Vec<ExecRecord>> {
        let mut found = BTreeMap::new();
        let has_database = {
            let state = self.state();
            let older = state.execs.iter().rev().filter(|(id, _)| before.is_none_or(|before| *id < before));
            for (id, record) in older.take(limit as usize) {
                found.insert(Reverse(id.clone()), record.clone());
            }
            state.has_database
        };
        if has_database {
            for record in self.database.list(before, limit).await? {
                found.entry(Reverse(record.exec.id.clone())).or_insert(record);
            }
        }
        Ok(found.into_values().take(limit as usize).collect())
    }

    /// At most `limit` events in order, of those after the position `after` (0 for all).
    ///
    /// # Errors
    /// [`Error::Internal`](isopod_model::Error::Internal): the database cannot be read.
    pub async fn events(&self, after: i64, limit: u32) -> Result<Vec<Event>> {
        let mut found = BTreeMap::new();
        let ask_database = {
            let state = self.state();
            let newer = state.pending.iter().filter(|record| record.seq > after);
            for record in newer.take(limit as usize) {
                found.insert(record.seq, record.event(&self.sandbox, &state.execs));
            }
            let oldest_here = state.pending.front().map_or(state.next_seq, |record| record.seq);
            state.has_database && after.saturating_add(1) < oldest_here
        };
        if ask_database {
            for event in self.database.events(&self.sandbox, after, limit).await? {
                found.entry(event.seq).or_insert(event);
            }
        }
        Ok(found.into_values().take(limit as usize).collect())
    }
}
