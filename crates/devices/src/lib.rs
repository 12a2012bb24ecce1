//! Serial and virtio devices as state machines over guest memory.

pub mod block;
mod buffers;
pub mod chain;
pub mod device;
mod from_spec;
pub mod kernel_log;
pub mod mmio;
pub mod rng;
pub mod serial;
pub mod vhost_user;
pub mod vsock;
mod worker;

pub use from_spec::{SpecError, from_spec};
