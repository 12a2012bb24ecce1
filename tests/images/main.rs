//! Images from a user's side, without a machine: one module for each promise.

mod kills;
mod points;
mod power_cuts;
mod samples;
mod session;
