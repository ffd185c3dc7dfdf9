//! One file per command: its arguments and what it does.

pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod life;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod openapi;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod stats;
