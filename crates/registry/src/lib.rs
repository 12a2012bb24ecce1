//! Names of images, and the registries that keep them (OCI distribution-spec v1.1).
//!
//! # Map
//!
//! [`reference`] reads names as Docker reads them.

pub mod reference;

pub use reference::{Reference, ReferenceError, familiar};
