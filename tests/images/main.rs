//! Images from a user's side, without a machine: one module for each promise.

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
