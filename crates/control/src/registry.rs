//! The live sandboxes in memory: what the store holds of them, and who may change it.
//!
//! A sandbox's state is changed only by whoever holds its gate; everybody else reads the last record. Calls into a
//! sandbox take neither the gate nor the database.

use isopod_model::{Error, Result, SandboxId, SandboxState, Timestamp, sandbox::Sandbox};
use isopod_store::Record;
use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
    },
};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// A place among the sandboxes that have a shell; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<AtomicU64>);

impl Slot {
    fn new(taken: &Arc<AtomicU64>) -> Self {
        metrics::gauge!("sandbox_active").increment(1.0);
        Self(taken.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
        metrics::gauge!("sandbox_active").decrement(1.0);
    }
}

/// What only the owner of a sandbox's state may touch.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Held while the sandbox is being created, runs or is paused.
    pub(crate) slot: Option<Slot>,
}

/// The right to change one sandbox's state.
pub(crate) type GateGuard = OwnedMutexGuard<Gate>;

/// One sandbox that has not ended (or just did).
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) id: SandboxId,
    pub(crate) owner: String,
    record: RwLock<Arc<Record>>,
    gate: Arc<Mutex<Gate>>,
    /// Calls into the sandbox that have begun and not finished.
    calls: AtomicU64,
    /// It is being stopped for being idle: calls that begin now wait and start it again.
    stopping: AtomicBool,
    /// When it was last said to be in use, in milliseconds; the node knows of execs and calls itself.
    pub(crate) active_at: AtomicI64,
    /// Before this moment, in milliseconds, the sweep need not look at it again.
    pub(crate) look_at: AtomicI64,
    /// A background step for it is under way.
    pub(crate) in_sweep: AtomicBool,
}

impl Live {
    fn new(record: Record, slot: Option<Slot>) -> Arc<Self> {
        Arc::new(Self {
            id: record.sandbox.id.clone(),
            owner: record.owner.clone(),
            record: RwLock::new(Arc::new(record)),
            gate: Arc::new(Mutex::new(Gate { slot })),
            calls: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            active_at: AtomicI64::new(0),
            look_at: AtomicI64::new(0),
            in_sweep: AtomicBool::new(false),
        })
    }

    /// Waits until nobody else changes the state.
    pub(crate) async fn enter(&self) -> GateGuard {
        self.gate.clone().lock_owned().await
    }

    /// The gate, if nobody has it.
    pub(crate) fn try_enter(&self) -> Option<GateGuard> {
        self.gate.clone().try_lock_owned().ok()
    }

    /// What is saved of it.
    pub(crate) fn record(&self) -> Arc<Record> {
        self.record.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What callers see of it.
    pub(crate) fn sandbox(&self) -> Sandbox {
        self.record().sandbox.clone()
    }

    pub(crate) fn state(&self) -> SandboxState {
        self.record.read().unwrap_or_else(PoisonError::into_inner).sandbox.state
    }

    /// Only with the gate, and only what has been saved.
    pub(crate) fn set(&self, record: Record) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(record);
    }

    /// Counts a call as begun; the state it finds. See [`Live::close_for_idle`].
    pub(crate) fn begin_call(&self) -> SandboxState {
        self.calls.fetch_add(1, SeqCst);
        if self.stopping.load(SeqCst) { SandboxState::Stopped } else { self.state() }
    }

    pub(crate) fn finish_call(&self) {
        self.calls.fetch_sub(1, SeqCst);
    }

    /// Closes the sandbox for calls if none is under way, until the guard is dropped.
    ///
    /// A call counts itself first and looks at the flag then; this sets the flag first and looks at the count then.
    /// So either the call sees the flag, or this sees the call: an exec that has just begun is never stopped as idle.
    pub(crate) fn close_for_idle(&self) -> Option<Closed<'_>> {
        self.stopping.store(true, SeqCst);
        let closed = Closed(self);
        (self.calls.load(SeqCst) == 0).then_some(closed)
    }

    /// Counts as activity.
    pub(crate) fn touch(&self, now: Timestamp) {
        self.active_at.fetch_max(now.as_millisecond(), SeqCst);
    }

    /// The error for a sandbox that has ended or is ending.
    pub(crate) fn gone(&self) -> Error {
        gone(&self.record())
    }
}

/// While this lives, calls find the sandbox stopped.
pub(crate) struct Closed<'live>(&'live Live);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.stopping.store(false, SeqCst);
    }
}

/// [`Error::Gone`] with the ending of `record`.
pub(crate) fn gone(record: &Record) -> Error {
    let id = record.sandbox.id.to_string();
    match record.sandbox.ending.clone() {
        Some(ending) => Error::Gone { id, ending: Box::new(ending) },
        None => Error::internal(format!("{id} has ended without an ending")),
    }
}

#[derive(Debug, Default)]
struct Maps {
    by_id: HashMap<SandboxId, Arc<Live>>,
    by_owner_and_name: HashMap<String, HashMap<String, Arc<Live>>>,
}

/// Every live sandbox.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    maps: RwLock<Maps>,
    slots: Arc<AtomicU64>,
}

impl Registry {
    fn read(&self) -> RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more shell, if fewer than `most` are taken.
    pub(crate) fn slot(&self, most: u64) -> Option<Slot> {
        let add = |taken: u64| (taken < most).then_some(taken + 1);
        self.slots.fetch_update(SeqCst, SeqCst, add).ok().map(|_| Slot::new(&self.slots))
    }

    /// A place for a shell that is there already.
    pub(crate) fn slot_regardless(&self) -> Slot {
        self.slots.fetch_add(1, SeqCst);
        Slot::new(&self.slots)
    }

    /// Makes a sandbox known, and gives its gate to who made it.
    ///
    /// # Errors
    /// [`Error::NameTaken`].
    pub(crate) fn insert(&self, record: Record, slot: Option<Slot>) -> Result<(Arc<Live>, GateGuard)> {
        let name = record.sandbox.name.clone();
        let mut maps = self.write();
        if let Some(name) = &name {
            let holder = maps.by_owner_and_name.get(&record.owner).and_then(|names| names.get(name));
            if let Some(holder) = holder {
                return Err(Error::NameTaken { name: name.clone(), id: holder.id.to_string() });
            }
        }
        let live = Live::new(record, slot);
        let Some(gate) = live.try_enter() else {
            return Err(Error::internal("a gate that nobody knows of is taken"));
        };
        if let Some(name) = name {
            maps.by_owner_and_name.entry(live.owner.clone()).or_default().insert(name, live.clone());
        }
        maps.by_id.insert(live.id.clone(), live.clone());
        Ok((live, gate))
    }

    /// Forgets a sandbox; its name is free again.
    pub(crate) fn remove(&self, live: &Live) {
        let mut maps = self.write();
        maps.by_id.remove(&live.id);
        let Some(name) = live.record().sandbox.name.clone() else { return };
        if let Some(names) = maps.by_owner_and_name.get_mut(&live.owner) {
            names.remove(&name);
            if names.is_empty() {
                maps.by_owner_and_name.remove(&live.owner);
            }
        }
    }

    pub(crate) fn get(&self, id: &SandboxId) -> Option<Arc<Live>> {
        self.read().by_id.get(id).cloned()
    }

    pub(crate) fn by_name(&self, owner: &str, name: &str) -> Option<Arc<Live>> {
        self.read().by_owner_and_name.get(owner)?.get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Live>> {
        self.read().by_id.values().cloned().collect()
    }
}
