//! Who asks, and what the operator decided beforehand.

use isopod_model::{SandboxState, page};
use std::time::Duration;

/// Who asks. Every look-up is by owner: to a stranger a sandbox does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The owner of what this caller makes and sees.
    pub owner: String,
}

impl Caller {
    /// The one caller of a server without logins.
    pub fn local() -> Self {
        Self { owner: "local".to_owned() }
    }
}

/// What the operator decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlSettings {
    /// How many sandboxes may have a shell at once; what the node computed for its host when absent.
    pub max_sandboxes: Option<u64>,
    /// The template of sandboxes that name none.
    pub default_template: String,
    /// How long the records of ended sandboxes, and events, are kept.
    pub retention: Duration,
}

impl Default for ControlSettings {
    fn default() -> Self {
        Self {
            max_sandboxes: None,
            default_template: "base".to_owned(),
            retention: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// Which sandboxes to list, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListFilter {
    /// Labels that a sandbox must have, all of them; at most 16.
    pub labels: Vec<(String, String)>,
    /// The state it must be in; every state but `ended` when absent.
    pub state: Option<SandboxState>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// How many at most: 1 to 1000.
    pub limit: u32,
}

impl Default for ListFilter {
    fn default() -> Self {
        Self { labels: Vec::new(), state: None, cursor: None, limit: page::DEFAULT_LIMIT }
    }
}
