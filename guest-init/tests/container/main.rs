//! Guest init's whole work, driven through the `guest` crate, without a machine.
//!
//! The agent runs as PID 1 of fresh namespaces of this host, with Unix sockets for vsock and loop devices for disks;
//! from Hello to power-off everything else is what happens in a guest. Needs root, loop devices, `unshare`, `losetup`,
//! `mkfs.erofs`, `mkfs.ext4`, `e2fsck` and a static `busybox`. Without a harness, because the agent must be a process
//! of one thread.

/// The list of a module's cases.
macro_rules! cases {
    ($($name:ident),* $(,)?) => { pub(crate) const ALL: &[crate::Case] = &[$((stringify!($name), $name)),*]; };
}

mod agent;
mod cases;
mod disks;
mod image;
mod life;
mod machine;
mod unpacking;

use std::panic::catch_unwind;

/// A name and what it runs.
type Case = (&'static str, fn());

fn all() -> impl Iterator<Item = &'static Case> {
    [cases::ALL, life::ALL, unpacking::ALL, disks::ALL].into_iter().flatten()
}

fn main() {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    guest_init::container_init::run_if_asked(arguments.clone());
    if arguments.get(1).is_some_and(|argument| argument == "agent") {
        agent::run(arguments.get(2).expect("directory"));
    }
    let filter = arguments.iter().skip(1).find(|argument| !argument.to_string_lossy().starts_with('-'));
    let filter = filter.map(|filter| filter.to_string_lossy().into_owned()).unwrap_or_default();
    if arguments.iter().any(|argument| argument == "--list") {
        all().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    let mut failed = Vec::new();
    for (name, case) in all().filter(|(name, _)| name.contains(&filter)) {
        let outcome = catch_unwind(case);
        println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        if outcome.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}
