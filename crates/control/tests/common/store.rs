//! The real store, failing when it is told to.

use async_trait::async_trait;
use isopod_model::{Error, Result, SandboxId, SandboxState, Timestamp, event::Event};
use isopod_store::{ListQuery, NewEvent, Record, SqliteStore, Store, Swept, Transition, Update};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

#[derive(Debug)]
pub(crate) struct FaultyStore {
    store: SqliteStore,
    file: PathBuf,
    faults: Mutex<Vec<&'static str>>,
}

impl FaultyStore {
    pub(crate) async fn open(data: &Path) -> Arc<Self> {
        let store = SqliteStore::open(data).await.expect("opens");
        Arc::new(Self { store, file: data.join("isopod.db"), faults: Mutex::new(Vec::new()) })
    }

    /// Puts a row into a state that no call of the store would put it in.
    pub(crate) async fn rewrite_state(&self, id: &SandboxId, state: SandboxState) {
        use sqlx::ConnectOptions;
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&self.file);
        let mut connection = options.connect().await.expect("a second connection");
        sqlx::query("UPDATE sandboxes SET state = $1 WHERE id = $2")
            .bind(state.as_str())
            .bind(id.as_str())
            .execute(&mut connection)
            .await
            .expect("the statement is right");
    }

    /// Makes the next call of that name fail; of transitions `to …` names the state.
    pub(crate) fn fail_next(&self, call: &'static str) {
        self.faults.lock().expect("no panic holds it").push(call);
    }

    fn door(&self, call: &str) -> Result<()> {
        let mut faults = self.faults.lock().expect("no panic holds it");
        match faults.iter().position(|fault| *fault == call) {
            Some(position) => {
                faults.remove(position);
                Err(Error::internal(format!("{call} was told to fail")))
            }
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn insert(&self, record: &Record, event: &NewEvent) -> Result<()> {
        self.door("insert")?;
        self.store.insert(record, event).await
    }

    async fn get(&self, id: &SandboxId) -> Result<Option<Record>> {
        self.store.get(id).await
    }

    async fn get_by_name(&self, owner: &str, name: &str) -> Result<Option<Record>> {
        self.store.get_by_name(owner, name).await
    }

    async fn live(&self) -> Result<Vec<Record>> {
        self.store.live().await
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<Record>> {
        self.store.list(query).await
    }

    async fn update(&self, id: &SandboxId, update: &Update, event: &NewEvent) -> Result<Record> {
        self.door("update")?;
        self.store.update(id, update, event).await
    }

    async fn transition(&self, transition: &Transition) -> Result<Record> {
        self.door(&format!("to {}", transition.to.as_str()))?;
        self.store.transition(transition).await
    }

    async fn events(&self, id: &SandboxId, after: i64, limit: u32) -> Result<Vec<Event>> {
        self.store.events(id, after, limit).await
    }

    async fn sweep(&self, before: Timestamp) -> Result<Swept> {
        self.store.sweep(before).await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}
