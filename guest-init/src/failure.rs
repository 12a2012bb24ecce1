//! What could not be done, as a sentence for the host.

use std::fmt;

/// A failure that names its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A result with a [`Failure`].
pub type Result<T> = std::result::Result<T, Failure>;

/// A failure that is no other's consequence.
pub(crate) fn failure<T>(what: impl Into<String>) -> Result<T> {
    Err(Failure(what.into()))
}

/// Says what was attempted when it failed.
pub(crate) trait Context<T> {
    /// Puts `what` before the cause.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Failure(format!("{}: {cause}", what())))
    }
}
