//! Names of images, and the registries that keep them (OCI distribution-spec v1.1).
//!
//! # Map
//!
//! [`reference`] reads names as Docker reads them.

pub mod auth_file;
mod client;
mod error;
pub mod reference;
pub mod settings;

pub use auth_file::{Credentials, CredentialsError, Kept};
pub use client::{Client, Download, Manifest, ManifestHead, Upload};
pub use error::{Answer, RegistryError, Unreached, Waiting};
pub use reference::{Reference, ReferenceError, familiar};
pub use settings::{HostSettings, Settings};
