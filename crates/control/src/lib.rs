//! Decisions: who may, where, and that.
//!
//! [`Control`] resolves callers' names to sandboxes, decides tier and template, keeps the store and the node in
//! agreement, and ends what is due. It knows neither HTTP nor how a tier works: below it are a [`Store`] and a
//! [`Node`], above it whoever speaks to clients.
//!
//! What happens *inside* a sandbox goes through a [`DataPlane`]: a sandbox already resolved, on whose way there is
//! no database.
//!
//! Who may change what: one task at a time holds a sandbox's gate (`registry`) and walks it along the lifecycle
//! table (`core`), first on the node and then in the store. Such tasks are never dropped half way, even if their
//! caller goes away.
//!
//! [`Store`]: isopod_store::Store
//! [`Node`]: isopod_node_api::Node

mod caller;
mod check;
mod control;
mod core;
mod create;
mod data;
mod lifecycle;
mod metrics;
mod placement;
mod reconcile;
mod registry;
mod sweep;
mod tiers;
mod update;
mod waker;

pub use caller::{Caller, ControlSettings, ListFilter};
pub use control::{Control, StateCounts};
pub use data::{DataPlane, Waker};
pub use metrics::ExecMeter;
