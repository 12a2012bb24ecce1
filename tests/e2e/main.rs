//! What Coracle promises, told as a shell session. One body for every back end: `CORACLE_TEST_ACCEL` chooses.

mod binds;
mod endings;
mod execs;
mod exits;
mod files;
mod identity;
mod kills;
mod layers;
mod leftovers;
mod lives;
mod quarrels;
mod refusals;
mod roots;
mod stdio;
mod terminals;
mod volumes;
mod watching;
