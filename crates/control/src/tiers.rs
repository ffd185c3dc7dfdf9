//! Moving between tiers.

use crate::{check, core::Core, placement, registry::Live};
use isopod_model::{Error, Result, sandbox::Tier};

/// Which way a caller wants to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Heavier,
    Lighter,
}

impl Core {
    /// Moves a sandbox to another tier; Ok without a change when it lives there.
    pub(crate) async fn move_to(&self, live: &Live, tier: Tier, direction: Direction) -> Result<()> {
        let present = live.sandbox().tier;
        if tier == present {
            return Ok(());
        }
        placement::check_tier(tier, &self.node.report().await)?;
        let wrong = match direction {
            Direction::Heavier => (tier < present).then_some("is lighter than the present tier; use demote"),
            Direction::Lighter => (tier > present).then_some("is heavier than the present tier; use promote"),
        };
        if let Some(reason) = wrong {
            return Err(Error::invalid("tier", reason));
        }
        Err(check::not_built("moving a sandbox to another tier", "T5"))
    }
}
