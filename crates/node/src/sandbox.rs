//! One sandbox on this machine: its directory, its life, its shell while it has one.

use crate::{
    log::SandboxLog,
    tiers::container::{ContainerTier, Furnished, Place, shell::Shell, slot::Ready},
};
use isopod_model::{Clock, EndReason, Ending, Error, Result, SandboxId, SandboxState, Timestamp};
use isopod_node_api::{SandboxSpec, SandboxStatus};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
};

/// What a sandbox's directory says of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Version of this form.
    pub(crate) version: u32,
    /// What it is.
    pub(crate) spec: SandboxSpec,
    /// Its slot.
    pub(crate) slot: u32,
}

const RECORD: &str = "sandbox.json";
const ENDING: &str = "ending.json";
const RECORD_VERSION: u32 = 1;

/// A sandbox.
pub(crate) struct Sandbox {
    /// What it is and where.
    pub(crate) record: Record,
    directory: PathBuf,
    /// What it leaves behind.
    pub(crate) place: Place,
    /// Held while it starts, stops or goes.
    pub(crate) life: tokio::sync::Mutex<()>,
    /// Held while an exec with an idempotency key starts.
    pub(crate) keyed: tokio::sync::Mutex<()>,
    shell: RwLock<Option<Arc<Shell>>>,
    ending: RwLock<Option<Ending>>,
    last_active_ms: AtomicI64,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sandbox").field("record", &self.record).finish_non_exhaustive()
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, serde_json::to_vec(value)?)?;
    fs::rename(fresh, path)
}

impl Sandbox {
    /// Makes a new sandbox's directory.
    ///
    /// # Errors
    /// When the host's disk refuses it.
    pub(crate) async fn make(
        directory: PathBuf,
        spec: SandboxSpec,
        slot: u32,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let record = Record { version: RECORD_VERSION, spec, slot };
        let (path, text) = (directory.clone(), serde_json::to_vec(&record).map_err(Error::internal)?);
        let made = tokio::task::spawn_blocking(move || {
            fs::create_dir(&path)?;
            fs::write(path.join(RECORD), text)?;
            fs::create_dir(path.join("execs"))
        });
        made.await
            .map_err(Error::internal)?
            .map_err(|error| crate::host_fault("sandbox directory", &error))?;
        Self::at(directory, record, clock).await
    }

    /// Reads the sandbox in a directory.
    ///
    /// # Errors
    /// [`Error::FileNotFound`] when it holds none or half a record; else why it cannot be read.
    pub(crate) async fn load(directory: PathBuf, clock: Arc<dyn Clock>) -> Result<Self> {
        let read =
            || -> io::Result<Record> { Ok(serde_json::from_slice(&fs::read(directory.join(RECORD))?)?) };
        let record = read().map_err(|_| Error::FileNotFound { path: RECORD.into() })?;
        if record.version != RECORD_VERSION {
            return Err(Error::internal("written by another version of isopod"));
        }
        let loaded = Self::at(directory, record, clock).await?;
        let ending = fs::read(loaded.directory.join(ENDING))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        loaded.set_ending(ending);
        Ok(loaded)
    }

    async fn at(directory: PathBuf, record: Record, clock: Arc<dyn Clock>) -> Result<Self> {
        let log = Arc::new(SandboxLog::open(&directory, record.spec.id.clone(), Arc::clone(&clock)).await?);
        let last_active_ms = AtomicI64::new(clock.now().as_millisecond());
        let place = Place { log, journals: directory.join("execs"), clock };
        Ok(Self {
            record,
            directory,
            place,
            life: tokio::sync::Mutex::default(),
            keyed: tokio::sync::Mutex::default(),
            shell: RwLock::default(),
            ending: RwLock::default(),
            last_active_ms,
        })
    }

    /// Its id.
    pub(crate) fn id(&self) -> &SandboxId {
        &self.record.spec.id
    }

    /// Appends to its log; a log that cannot be written is reported, never in the way.
    pub(crate) fn note(&self, kind: &str, data: serde_json::Value) {
        if let Err(error) = self.place.log.event(kind, data) {
            tracing::warn!(sandbox = %self.id(), ?error, "an event could not be logged");
        }
    }

    /// Its log.
    pub(crate) fn log(&self) -> &SandboxLog {
        &self.place.log
    }

    /// Notes that somebody needs it now.
    pub(crate) fn touch(&self) {
        self.last_active_ms.store(self.place.clock.now().as_millisecond(), Ordering::Relaxed);
    }

    /// Its shell, if it is up.
    pub(crate) fn shell(&self) -> Option<Arc<Shell>> {
        self.shell.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its shell.
    ///
    /// # Errors
    /// [`Error::WrongState`] while it is stopped.
    pub(crate) fn running(&self) -> Result<Arc<Shell>> {
        self.shell().ok_or(Error::WrongState { state: SandboxState::Stopped, hint: "start it first" })
    }

    /// Puts a shell in place, or takes it away.
    pub(crate) fn set_shell(&self, shell: Option<Arc<Shell>>) {
        *self.shell.write().unwrap_or_else(PoisonError::into_inner) = shell;
    }

    fn set_ending(&self, ending: Option<Ending>) {
        *self.ending.write().unwrap_or_else(PoisonError::into_inner) = ending;
    }

    /// Starts its shell on a slot; `life` must be held.
    ///
    /// # Errors
    /// What failed.
    pub(crate) async fn start(&self, tier: &ContainerTier, ready: Ready, furnished: Furnished) -> Result<()> {
        let shell = tier.start(&self.place, &self.record.spec, ready, furnished).await?;
        self.set_shell(Some(shell));
        self.set_ending(None);
        self.touch();
        let _ = fs::remove_file(self.directory.join(ENDING));
        self.note("sandbox.started", serde_json::json!({ "tier": self.record.spec.tier }));
        Ok(())
    }

    /// Its shell is dead: notes why and wakes whoever waits for it.
    pub(crate) fn ended(&self, shell: &Shell, ending: Ending) {
        if let Err(error) = write_json(&self.directory.join(ENDING), &ending) {
            tracing::warn!(sandbox = %self.id(), %error, "why it ended could not be kept");
        }
        self.set_ending(Some(ending.clone()));
        self.set_shell(None);
        shell.finished(ending);
    }

    /// After a restart, when its shell is not there any more: what it was doing is unknown.
    pub(crate) fn lost(&self) {
        let now = self.place.clock.now();
        let known = self.ending.read().unwrap_or_else(PoisonError::into_inner).is_some();
        if !known {
            let detail = "its launcher or its machine went away while it ran; files are kept";
            let ending = Ending::new(EndReason::Interrupted, now, "server", detail);
            let _ = write_json(&self.directory.join(ENDING), &ending);
            self.set_ending(Some(ending));
        }
        for record in self.log().open_execs() {
            let mut exec = record.exec;
            exec.state = isopod_model::exec::ExecState::Ended;
            exec.reason = Some(EndReason::Interrupted);
            exec.ended_at = Some(now);
            exec.detail = Some("the container ended while the server was away".into());
            if let Err(error) = self.log().end(exec) {
                tracing::warn!(sandbox = %self.id(), ?error, "the end of an exec could not be recorded");
            }
        }
    }

    /// What the node says of it.
    pub(crate) fn status(&self) -> SandboxStatus {
        let shell = self.shell();
        SandboxStatus {
            id: self.id().clone(),
            running: shell.is_some(),
            tier: self.record.spec.tier,
            running_execs: shell.as_ref().map_or(0, |shell| shell.running_execs()),
            last_active_at: Timestamp::from_millisecond(self.last_active_ms.load(Ordering::Relaxed))
                .unwrap_or_else(|_| self.place.clock.now()),
            ending: self.ending.read().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Moves its directory out of the way in one step, so that a crash cannot leave half a sandbox.
    ///
    /// # Errors
    /// When the host's disk refuses it.
    pub(crate) fn discard(&self, trash: &Path) -> io::Result<PathBuf> {
        let to = trash.join(self.id().as_str());
        fs::rename(&self.directory, &to)?;
        Ok(to)
    }
}
