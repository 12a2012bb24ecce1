//! A machine as plain data: what it is made of, and the messages one can send to it.
//!
//! [`MachineSpec`] is the whole description of a microVM. It is generic over the way a file is named:
//! the engine plans with paths (`MachineSpec<PathBuf>`), the monitor opens them and sends the same
//! description with indexes into the file descriptors that travel beside it (`MachineSpec<FileIndex>`),
//! so that the machine process never needs a file system.
//!
//! # What this crate is not for
//!
//! No I/O: sockets and descriptors belong to `monitor` (host end) and `vmm` (machine end).
//!
//! # Wire
//!
//! The machine process finds a `SOCK_SEQPACKET` Unix socket as its standard input. Each datagram is one
//! message in `postcard` encoding, at most [`MAX_MESSAGE`] bytes. The monitor speaks first: zero or more
//! [`ToMachine::Files`], each with up to [`FILES_PER_MESSAGE`] descriptors as `SCM_RIGHTS`, then one
//! [`ToMachine::Launch`] or [`ToMachine::Serve`]. Descriptors are numbered from 0 in the order sent.
//!
//! ```text
//!  monitor                                    coracle-vmm machine | coracle-vmm devices
//!     │── Files{count} + descriptors ──────────▶│
//!     │── Launch{spec} | Serve{spec} ──────────▶│
//!     │◀───────────────────────────── Started ──│  vCPUs run | device sockets are served
//!     │── KernelLog ───────────────────────────▶│
//!     │◀─────────────────────── KernelLog(…) ───│
//!     │── Stop ────────────────────────────────▶│  (or the socket closes)
//!     │◀────────────────────────── Ended{…} ────│  then the process exits
//! ```
//!
//! # Modules
//!
//! [`spec`] describes machines, [`message`] is the conversation, [`vsock`] the datagrams that hand over
//! vsock connections, [`probe`] the report on whether a host can run a machine under KVM.

pub mod message;
pub mod probe;
pub mod spec;
pub mod vsock;

pub use message::{CodecError, End, EndReason, FILES_PER_MESSAGE, FromMachine, MAX_MESSAGE, ToMachine, decode, encode};
pub use probe::{ProbeReason, ProbeReport};
pub use spec::{
    BlockBacking, Disk, DiskId, DiskRates, Extent, FileIndex, KernelLogRegion, MachineSpec, Rate, SECTOR_SIZE,
    SharedFiles, Vsock,
};
