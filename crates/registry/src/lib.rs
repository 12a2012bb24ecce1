//! Names of images, and the registries that keep them (OCI distribution-spec v1.1).
//!
//! # What it is for
//!
//! This is the one HTTP client of Coracle. It reads names as Docker reads them, finds the user's credentials where
//! docker and podman keep them, and pulls and pushes manifests and blobs: through mirrors and proxies, with whatever
//! authentication the registry wants, and on through connections that break.
//!
//! # What it is not for
//!
//! It does not know what is in a manifest, and writes no blob anywhere: a [`Download`] is bytes, whose digest its
//! caller checks while it writes them. It follows no `urls` of a manifest's layers: nobody asks it to. It searches no
//! registry, and deletes nothing in one.
//!
//! # Map
//!
//! ```text
//! client ─────────────── the blocking face: manifest, blob, has_blob, mount_blob, push_blob, push_manifest, login
//!  ├─ pull, download ─── manifests with their digests checked; blobs that resume
//!  ├─ push ───────────── blobs in one request or in pieces; mounts; manifests
//!  └─ background ─────── the one thread with the asynchronous runtime
//! exchange ───────────── one request: redirects, and what the registry wants to see
//!  ├─ auth, challenge ── Basic and Bearer; tokens, each kept until its end
//!  ├─ network ────────── endpoints: registries and mirrors, their connections, http or https
//!  ├─ guard ──────────── which addresses a registry may send us to
//!  ├─ tls, proxy ─────── whom we trust; which way we go
//!  └─ body, range ────── bounded, watched bodies; parts of blobs
//! answer, failure, error, retry ── what went wrong, in words; what is tried again
//! reference, settings, environment, auth_file ── what comes from the user
//! ```
//!
//! # Design
//!
//! Pulling is a blocking business for those who do it: a layer's bytes go through a decompressor and a hasher on a
//! thread of its own. HTTP with TLS, proxies and connections kept open is asynchronous in every library that is kept
//! well. So the library (`reqwest` on `hyper`, `rustls` and `tokio`) runs on **one thread**, started by the first
//! request, and bodies cross over through channels of a few pieces: a slow reader slows the network, nothing else
//! grows. HTTP/1.1 only: a pull is a few long bodies, each at full speed on a connection of its own, and there is less
//! to get wrong. `reqwest` follows no redirect, retries nothing, decodes nothing and finds no proxy by itself: all of
//! that decides who gets credentials and what a digest is taken of, so it is done here, where it can be read.
//!
//! Trust is in digests. What a tag means, the registry says, over TLS; everything else is checked against a digest
//! or a size that is known before.
//!
//! # Threats
//!
//! A registry, its mirrors, its token server, and whoever they redirect to, may be anyone.
//!
//! | threat | answer |
//! |---|---|
//! | credentials sent to another host by a redirect | they go to the registry's own scheme, host and port alone; after the first step elsewhere never again |
//! | a redirect's target that asks for credentials, or names a token server | its 401 is an error, not a challenge |
//! | a token server on another host over plain HTTP | refused, unless the registry itself is plain HTTP and the server at its host or on loopback |
//! | a token server that redirects | the password stays at its scheme, host and port; a refresh token follows no redirect at all |
//! | redirects, uploads or token servers that point at loopback, metadata services or the private network | refused by the class of the address the registry itself is at ([`guard`](self#map)), in the URL and again where the name becomes an address |
//! | https to http; `file:`; loops; many hops | refused; at most ten |
//! | a certificate that is not the registry's | no connection, and no fall back to plain HTTP; `insecure` in the settings is the only way round |
//! | another manifest or blob than was asked for | manifests are checked here, blobs by whoever reads them, sizes by both |
//! | a manifest that is one thing to us and another to others (CVE-2021-41190) | `Content-Type` and `mediaType` must agree |
//! | digests that are paths (CVE-2024-3727) | names and digests are parsed before anything is asked: what is no name or `sha256:` and hexadecimal digits never gets into a URL or a token's scope |
//! | answers without end: heads, manifests, tokens, errors, blobs, challenges | each has a bound in bytes; a blob ends at its size |
//! | answers that do not come, or drop by drop | deadlines for connection, head and bytes; an average over a minute, pauses and new connections included |
//! | errors that control the terminal, or show secrets | escaped and cut; URLs are shown without user and query; secrets have no `Debug` |
//! | a proxy | sees hosts and bytes of TLS; is given its own credentials only; what names mean behind it cannot be checked here |
//!
//! Who can change the user's files, settings or environment is trusted.

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
