//! Images from a user's side, without a machine: one module for each promise.
//!
//! - [`kills`], [`power_cuts`], [`full_disks`]: a command may end at any change that it makes to its disk, and the disk
//!   may fail there. They need root and `/dev/fuse`.
//! - [`access`], [`interchange`]: a real registry, and other people's tools on the other side of it.
//! - [`crowds`]: twenty commands in one home. [`giants`]: images at the edge, in 256 MiB of memory.
//! - [`sessions`]: what a user does with images on one host.
//!
//! What they share: [`samples`] are small images, [`session`] knows what a home holds after each of some commands,
//! [`points`] goes through hundreds of points, [`tools`] runs skopeo, podman and buildah.

mod access;
mod crowds;
mod full_disks;
mod giants;
mod interchange;
mod kills;
mod points;
mod power_cuts;
mod samples;
mod session;
mod sessions;
mod tools;
