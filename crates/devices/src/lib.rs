//! Serial and virtio devices as state machines over guest memory.

pub mod device;
