//! What the root file system of a sandbox is made of.

pub mod host;
mod view;

pub use view::build_view;
