//! The states of a sandbox and which may follow which.
//!
//! ```text
//!            ┌───────────► running ◄──────────► paused
//! creating ──┤              │  ▲                  │
//!     │      │              ▼  │                  │
//!     │      └─────────► stopped ◄────────────────┘   (files kept; the next exec or file call starts it)
//!     ▼                     │
//!   ended ◄─── deleting ◄───┴── from every state but ended
//! ```

use serde::{Deserialize, Serialize};

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// Its record exists, its shell does not yet.
    Creating,
    /// Its shell is up; execs and file calls are answered at once.
    Running,
    /// Its processes are frozen; they keep memory and connections.
    Paused,
    /// It has no processes; its files are kept.
    Stopped,
    /// Its processes are dead or dying and its files are being removed.
    Deleting,
    /// It is gone; what is left is the record of its end.
    Ended,
}

impl SandboxState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Creating, Self::Running, Self::Paused, Self::Stopped, Self::Deleting, Self::Ended];

    /// The word used in JSON, in the store and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Deleting => "deleting",
            Self::Ended => "ended",
        }
    }

    /// The state named by `word`.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// The states that may follow this one; the table of the diagram above.
    pub fn next(self) -> &'static [Self] {
        use SandboxState::{Creating, Deleting, Ended, Paused, Running, Stopped};
        match self {
            Creating => &[Running, Stopped, Deleting, Ended],
            Running => &[Paused, Stopped, Deleting],
            Paused => &[Running, Stopped, Deleting],
            Stopped => &[Running, Deleting],
            Deleting => &[Ended],
            Ended => &[],
        }
    }

    /// Whether `to` may follow this state.
    pub fn may_become(self, to: Self) -> bool {
        self.next().contains(&to)
    }
}

#[cfg(test)]
mod tests {
    use super::SandboxState;

    #[test]
    fn every_state_leads_to_the_end_and_the_end_to_nothing() {
        for state in SandboxState::ALL {
            let mut reachable = vec![state];
            while let Some(more) =
                reachable.iter().flat_map(|from| from.next()).find(|to| !reachable.contains(to)).copied()
            {
                reachable.push(more);
            }
            assert!(reachable.contains(&SandboxState::Ended), "{state:?}");
            assert_eq!(SandboxState::from_word(state.as_str()), Some(state));
            if !matches!(state, SandboxState::Deleting | SandboxState::Ended) {
                assert!(state.may_become(SandboxState::Deleting), "{state:?} cannot be deleted");
            }
        }
        assert!(SandboxState::Ended.next().is_empty());
    }
}
