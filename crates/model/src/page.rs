//! Pages of a listing.

use serde::{Deserialize, Serialize};

/// One page of a listing; `next_cursor` is absent on the last one.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// The items of this page.
    pub items: Vec<T>,
    /// Hand this back as `cursor` to get the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// How many items a page holds when the caller does not say.
pub const DEFAULT_LIMIT: u32 = 100;
/// How many items a page holds at most.
pub const MAX_LIMIT: u32 = 1000;
