//! The commands that talk to registries: log in and out, pull, push, and the pull before a run.

pub(crate) mod flags;
pub(crate) mod login;
pub(crate) mod transfer;
