//! What every [`Store`] must do, as a suite that panics on the first thing that is not so.
//!
//! The tests of each implementation call [`run`] with a way to make empty stores.

mod lists;
mod names;
mod samples;
mod steps;

use crate::Store;
use std::sync::Arc;

pub use samples::{event, record, step};

/// Runs every check, each on an empty store from `fresh`.
///
/// # Panics
/// When the store does not do what the trait promises.
pub async fn run(fresh: impl AsyncFn() -> Arc<dyn Store>) {
    steps::what_is_saved_is_read_back(&*fresh().await).await;
    steps::a_step_and_its_event_are_saved_together(&*fresh().await).await;
    steps::steps_outside_the_table_are_refused(&*fresh().await).await;
    steps::of_two_concurrent_steps_one_wins(fresh().await).await;
    steps::updates_replace_what_callers_may_change(&*fresh().await).await;
    names::one_of_many_concurrent_inserts_wins(fresh().await).await;
    names::a_name_is_free_after_the_end(&*fresh().await).await;
    names::names_belong_to_their_owner(&*fresh().await).await;
    lists::pages_meet_without_gap_or_double(&*fresh().await).await;
    lists::filters_hold_together(&*fresh().await).await;
    lists::hostile_texts_are_only_texts(&*fresh().await).await;
    lists::events_go_on_after_a_position(&*fresh().await).await;
    lists::retention_removes_what_is_old_and_nothing_else(&*fresh().await).await;
}
