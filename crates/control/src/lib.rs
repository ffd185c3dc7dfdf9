//! Decisions: who may, where, and that.
//!
//! [`Control`] resolves callers' names to sandboxes, decides tier and template, keeps the store and the node in
//! agreement, and ends what is due. It knows neither HTTP nor how a tier works: below it are a [`Store`] and a
//! [`Node`], above it whoever speaks to clients.
//!
//! What happens *inside* a sandbox goes through a [`DataPlane`]: a sandbox already resolved, on whose way there is
//! no database.
//!
//! [`Store`]: isopod_store::Store
//! [`Node`]: isopod_node_api::Node

mod caller;
mod control;
mod data;

pub use caller::{Caller, ControlSettings, ListFilter};
pub use control::{Control, StateCounts};
pub use data::{DataPlane, Waker};
