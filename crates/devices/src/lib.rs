//! The devices of a machine: what a guest's drivers talk to.
//!
//! Everything here is a state machine over guest memory and a few file descriptors. There is no KVM, no bus, no
//! path: the VMM (or an emulator, over vhost-user) has the vCPUs and the transport, and hands a device its queues.
//! So the same code faces a guest on every back end, and all of it runs in a test without a guest.
//!
//! # Shape
//!
//! ```text
//!   driver's registers              ring memory                        host
//!        │                               │                              │
//!   mmio │ vhost_user ── Activation ──▶ engine ── buffers ──▶ files, sockets, getrandom
//!        │      (memory, features,       ▲  chain: descriptors
//!        │       queues, interrupt)      │  become plain data, once
//!        └── kick ──▶ worker (epoll) ────┘
//! ```
//!
//! - [`device`]: the contract between a device and its transport. Read it first.
//! - [`mmio`], [`vhost_user`]: the two transports.
//! - [`block`], [`vsock`], [`rng`], [`balloon`]: the virtio devices. Each is a device (features, configuration, life cycle) around
//!   an `Engine` (what it does with its queues), and the engine has no thread: a worker lends it one.
//! - [`fs`]: the one virtio device whose queues are not served here, but by a daemon that has the host's files.
//! - [`chain`]: descriptor chains, checked. `buffers`: vectored system calls on guest memory, the one place where
//!   addresses go to the kernel. `worker`: the thread.
//! - `rate`: how fast a device may be used, as token buckets over a clock.
//! - [`serial`], [`kernel_log`]: what a guest says outside of virtio.
//! - [`from_spec()`]: from the description of a machine to its devices.
//!
//! # Decisions
//!
//! **One thread per device, blocking calls, no queue of its own.** What waits, waits in the guest's ring or in the
//! host's socket, where it is bounded already and paid for by whoever put it there. A worker sleeps in epoll; kicks
//! are watched edge-triggered and cost no read.
//!
//! **Data is not copied.** Reads and writes go between descriptors and guest memory in one vectored call per
//! request (block) or per several packets (vsock). The exception is a stream whose reader on the host is slow.
//!
//! **Parse, then act.** A chain is copied out of the ring and checked; a header is copied out of guest memory and
//! parsed; only then something happens. Nothing is read twice.
//!
//! **A request that is wrong costs that request; a ring that is wrong costs the device**, until its driver resets it
//! (`DEVICE_NEEDS_RESET`). Neither costs the machine, and neither makes a worker spin.
//!
//! # Threats
//!
//! The guest is hostile. So may be an emulator that it has taken over: a vhost-user peer is checked like a guest.
//!
//! | threat | what stands against it | tested in |
//! |---|---|---|
//! | registers rewritten under a running device | activation copies them; queue registers take writes only before `DRIVER_OK` | `mmio::tests` |
//! | descriptor loops, wild addresses and lengths, misused indirect tables | `chain` accepts only well-formed chains inside guest memory, at most [`chain::MAX_DESCRIPTORS`] long | `chain::tests`, fuzz target `descriptor_chains` |
//! | available index or heads out of range | the ring is not served any more | `chain::tests`, `block::tests` |
//! | descriptors or headers changed while a request is served | each is read once, into host memory | `chain::tests` |
//! | sectors beyond the disk, sums that overflow, writes to a read-only disk | checked arithmetic before any I/O; the backing has no write path | `block::tests` |
//! | one request that takes for ever | bounds: data per block request, ranges per discard, entropy per request, packets per round | `block::tests`, `rng::tests` |
//! | a disk used faster than it may, by large requests, floods, resets or idling before | requests wait aside, no more than the ring has entries; each is paid for, debts outlive resets | `rate`, `block::tests` |
//! | memory of the host filled by vsock | backlog at most `buf_alloc` per connection and 32 MiB in all; [`vsock::CONNECTIONS_MAX`]; resets that wait are counted, and beyond that the guest is not listened to | `vsock::tests::hostile` |
//! | a stream that is not read, on either side | credit one way, the socket's buffer the other; other streams go on | `vsock::tests::flow` |
//! | forged vsock addresses | only the guest's own context identifier to the host's; ports are per machine, no host vsock exists | `vsock::tests::hostile` |
//! | reports of memory that is in use, or not there | a guest can only lose what is its own; whole pages in guest memory are taken | `balloon::tests` |
//! | requests for files, hostile ones | the daemon's to judge, in a process and a jail of its own; a daemon that does not answer, or offers less than is needed, leaves the device idle | `fs::tests` |
//! | endless console output | [`serial::LIMIT`] | `serial` |
//! | a forged kernel log | copied, then judged; never longer than its region | `kernel_log` |
//! | a vhost-user peer with wrong rings or short memory files | rings are translated and validated like registers; files are measured before they are mapped | `vhost_user::tests` |
//!
//! Not stood against here: a peer that truncates its memory file after the mapping can kill this process (and thereby
//! its own machine), and a guest can keep its own workers busy. Limits on processor time are the jail's.

pub mod balloon;
pub mod block;
mod buffers;
pub mod chain;
pub mod device;
mod from_spec;
pub mod fs;
pub mod kernel_log;
pub mod mmio;
mod rate;
pub mod rng;
pub mod serial;
#[cfg(test)]
mod testing;
pub mod vhost_user;
pub mod vsock;
mod worker;

pub use from_spec::{SpecError, from_spec};
