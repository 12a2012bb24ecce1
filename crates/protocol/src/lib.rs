//! The guest protocol: what host and guest init say to each other. Plain data, no I/O.
//!
//! # Connections
//!
//! Guest init opens vsock connections to the host ([`CONTROL_PORT`], [`STREAM_PORT`]); the host never
//! connects to the guest, so nothing in the guest listens before it is ready.
//!
//! - **Control**: the first connection to [`CONTROL_PORT`]. [`GuestMessage`] frames one way, [`HostMessage`]
//!   frames the other. The host takes one such connection for the life of the machine and refuses others.
//! - **Stdio**: one connection to [`STREAM_PORT`] for each stream of a process. Its first frame is a
//!   [`StreamOpen`] with the secret token that the host chose in [`HostMessage::Spawn`]; after it raw bytes
//!   flow until half-close. A process in the guest that guesses the port cannot guess the token.
//!
//! ```text
//!  guest init                                   host (keeper)
//!     │── Hello{version, …} ────────────────────▶│
//!     │◀─────────────────── Create{container} ───│   overlay root, mounts, limits
//!     │── Created ──────────────────────────────▶│
//!     │◀──────── Spawn{process, spec, streams} ───│
//!     │── StreamOpen on its own connections ─────▶│
//!     │── Spawned | SpawnFailed ─────────────────▶│
//!     │◀─────────────── Signal, Resize, … ────────│
//!     │◀────────────────── Ask{request, question} ─│   any number at once
//!     │── Answer{request, answer} ───────────────▶│
//!     │── Exited{process, status} ───────────────▶│   after the last byte of its streams was sent
//!     │◀───────────────────────────── PowerOff ───│   processes killed, scratch synced and unmounted
//!     │── PoweringOff ──────────────────────────▶│
//!     ╳ reset
//! ```
//!
//! # Frames
//!
//! [`frame`]: a 4-byte little-endian length, then a `postcard` body of at most [`MAX_FRAME`] bytes
//! ([`MAX_GUEST_FRAME`] from the guest). A [`StreamOpen`] frame has always [`StreamOpen::FRAME_LENGTH`] bytes, so
//! that its reader need not take any of the raw bytes that follow it.
//!
//! # Threats
//!
//! | from | what | answer |
//! |---|---|---|
//! | guest | a length beyond the limit, a truncated or unknown body | typed error before any allocation of that size; the connection ends |
//! | guest | a workload that speaks vsock itself | one control connection per machine; stream tokens of 128 random bits |
//! | host | (trusted by the guest) a malformed frame | the guest answers with an error and powers off; it never panics |

pub mod frame;
pub mod message;
pub mod unpack;

pub use frame::{FrameBuffer, FrameError, MAX_FRAME, MAX_GUEST_FRAME, encode_frame};
pub use message::*;

/// Version of this protocol. Host and guest must agree on it exactly.
pub const VERSION: u32 = 3;

/// Directory of a volume's file system that containers see.
pub const VOLUME_DIRECTORY: &str = "data";

/// Tag of the virtio-fs file system with the files of the host that containers see.
pub const SHARED_FILES_TAG: &str = "binds";

/// Host port of the control connection.
pub const CONTROL_PORT: u32 = 1024;

/// Host port of stdio connections.
pub const STREAM_PORT: u32 = 1025;
