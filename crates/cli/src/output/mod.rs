//! What the user reads: lists and objects as a [`table`], as JSON or by a [`template`] ([`mod@format`]), how far
//! something has got ([`progress`]), archives ([`file`]), and what went wrong ([`report`], the only place that prints errors).

pub(crate) mod file;
pub(crate) mod format;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod table;
pub(crate) mod template;
