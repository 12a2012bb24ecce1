//! Names of images, and the registries that keep them (OCI distribution-spec v1.1).
//!
//! # Map
//!
//! [`reference`] reads names as Docker reads them.

mod answer;
mod auth;
pub mod auth_file;
mod background;
mod body;
mod challenge;
mod client;
mod download;
pub mod environment;
mod error;
mod exchange;
mod failure;
mod guard;
mod network;
pub mod proxy;
mod pull;
mod push;
mod range;
pub mod reference;
mod retry;
pub mod settings;
mod tls;

pub use answer::Answer;
pub use auth_file::{Credentials, CredentialsError, Kept};
pub use client::{Client, Manifest, ManifestHead, Upload};
pub use download::Download;
pub use environment::{Deadlines, Environment};
pub use error::{RegistryError, Unreached, Waiting};
pub use reference::{Reference, ReferenceError, familiar};
pub use settings::{HostSettings, Settings};
