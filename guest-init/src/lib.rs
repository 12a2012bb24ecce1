//! Guest init: PID 1 in the guest. It connects to the host, sets containers up, runs their processes and powers the
//! machine off.
//!
//! One thread, one epoll loop, no listening socket. It depends on the protocol and on the kernel's interface alone.
//!
//! # Map
//!
//! - `boot`: first instruction → Hello → own mounts → loop. `platform`: the world around, [`Guest`] in a machine.
//! - `agent`: the loop. `container`, `disks`, `process`: what it looks after. `pump`: bytes of streams.
//! - `errand`: questions that take their time, by children: `disks` freeze, `cgroup` limits change, the
//!   `process_table` is read. `usage`: the question that takes none.
//! - In the container's first process: `mounts` (its view of the world), then `exec` (user, capabilities, program).
//!   `channel`: how it talks with the loop.
//! - `copy_up`: an image's content into an empty volume. `unpack`: the task that writes what the host sends;
//!   `attributes`: owners, modes, times and extended attributes for both.
//! - `paths`: look-ups in hostile roots. `accounts`, `search`, `tmpfs_options`: pure parsing. `cgroup`: limits.
//! - `container_init`: the small init for containers that want one.
//! - `sys`: the system calls that have no safe face elsewhere; all `unsafe` is there and in `main`.
//!
//! # Threats
//!
//! The host is trusted: a malformed frame is a fault, answered with `Fatal` and a reset, never a panic. Images and
//! running containers are not; they share this guest with guest init, whose duty to them is to stay alive and to
//! report truthfully.
//!
//! | from | what | answer |
//! |---|---|---|
//! | image | `/dev`, `/proc`, `/etc/resolv.conf`, … as links or files | replaced without following ([`paths`]) |
//! | image | working directory or tmpfs path through links or `/proc/self/fd` | looked up inside the root, no magic links |
//! | image | `/etc/passwd` as FIFO, device, terabytes; ids that overflow | regular files of bounded size; strict ids |
//! | container | descriptors of guest init | children keep three, everything else is closed before any look-up |
//! | container | tracing or reading guest init's children before their exec | not dumpable |
//! | container | out of memory | guest init cannot be chosen by the killer |
//! | container | a process that hangs while it is started (FUSE below `/etc`, …) | it is a child; the loop does not wait for it, and kills it after a time unless it is the container's first |
//! | container | a process that hangs whoever reads its arguments | a child reads them, and is killed after a time |
//! | container | a further process that leaves its output open to others | cut two seconds after its end, when all that was written is sent |
//! | container | links, renames and mounts where files are unpacked | each look-up inside the root, nothing followed at the end, nothing written to `/proc`, `/sys`, cgroups |
//! | container | a lowered limit that is waited for, a frozen disk | children wait; the loop touches no disk that may be frozen, and a thaw comes before the machine's end |
//! | container | a stream that nobody reads or that nobody feeds | its pump waits, nothing else does |

pub mod accounts;
mod agent;
mod attributes;
pub mod boot;
mod cgroup;
mod channel;
mod container;
pub mod container_init;
mod copy_up;
mod disks;
mod errand;
mod exec;
pub mod failure;
mod log;
mod mounts;
mod paths;
pub mod platform;
mod process;
mod process_table;
mod pump;
mod search;
mod sys;
pub mod tmpfs_options;
mod unpack;
mod usage;

pub use platform::Guest;
