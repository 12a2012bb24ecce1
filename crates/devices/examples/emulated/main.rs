//! Drives a real kernel with these devices over vhost-user, under QEMU's software emulation.
//!
//! ```text
//! cargo run -p devices --release --example emulated -- VMLINUX [TSC_KHZ]
//! ```
//!
//! Needs `qemu-system-x86_64`, a static `busybox`, `cpio`, `cc`, `mkfs.ext4`, `mkfs.erofs`. It mounts ext4 and EROFS
//! on our block device, trims, and moves streams both ways over vsock; it fails loudly if anything is not right.

mod machine;
mod streams;

use std::env;
use std::path::PathBuf;

fn main() {
    let kernel = PathBuf::from(env::args().nth(1).expect("usage: emulated VMLINUX"));
    let directory = tempfile::tempdir().expect("a directory");
    let mut machine = machine::Machine::start(&kernel, directory.path());
    machine.wait_for("READY");
    assert!(!machine.output().contains("FAIL"), "the guest complained");
    println!("scratch takes {} KiB on the host after fstrim", machine.scratch_kib());
    assert!(machine.scratch_kib() < 32 << 10, "discard gave nothing back");
    streams::drive(&machine.channel);
    println!("kernel log: {} bytes", machine.kernel_log().len());
    machine.power_off();
    assert!(!machine.kernel_log().is_empty(), "the log outlives the emulator");
    println!("all is well");
}
