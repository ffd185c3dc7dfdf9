//! Dev only: fakes for the tests of the other rooms, stricter than the real thing.
//!
//! [`FakeNode`] is a [`isopod_node_api::Node`] in memory. What a caller of the seam must not do (a second create of
//! the same id, an exec that was not validated, a resume of what is not paused, …) it refuses *and* remembers, and
//! [`FakeNode::assert_no_violations`] fails the test. Faults enter through the same seam: [`FakeNode::fail_next`],
//! [`FakeNode::hold`], [`FakeNode::kill`].

mod clock;
mod node;

pub use clock::{ManualClock, SeededEntropy};
pub use node::{FakeNode, Hold};
