//! The emulator's command line.
//!
//! QEMU's `microvm` machine with its translator (TCG): processor, memory and virtio-mmio transports are QEMU's,
//! every device but the entropy source is ours, over vhost-user. Why each argument is there:
//!
//! - `-nodefaults -no-user-config`: no device, monitor, serial port or network that we did not ask for.
//! - `-sandbox on,…`: seccomp without new privileges, children, or changes of its own limits.
//! - `acpi=off`: devices are found by `virtio_mmio.device=` on the command line, which QEMU appends
//!   (`auto-kernel-cmdline`). Without ACPI there is no reset register: the guest resets by a triple fault
//!   (`reboot=t`), and `-no-reboot` turns that into an exit.
//! - `memory-backend-memfd,share=on`: the device process maps guest memory.
//! - `virtio-mmio.force-legacy=false`: microvm's transports are legacy by default; our devices are virtio 1.
//! - On the kernel's command line: with the frequency of the time stamp counter told (TCG hands the host's through),
//!   and the timer checks and the APIC timer off, the kernel calibrates nothing against a PIT whose interrupts come
//!   late on a busy host. That took a third of the boot, and failed now and then.
//! - A machine that sees files of the host has a `vhost-user-fs-device`, whose daemon is another process: its queues are as long
//!   as those of our own device.
//! - The balloon is there for free page reporting: pages that the guest frees go back to the host. A machine with so
//!   many disks that there is no place for it does without.
//! - Kernel and initrd by `/proc/self/fd`: exactly the files that were opened, whatever their paths name by now.

use std::ffi::OsString;
use std::os::fd::RawFd;

use machine::MachineSpec;

/// Places for virtio devices on a `microvm` without ACPI.
const TRANSPORTS: usize = 8;

/// Devices beside the disks: vsock, the entropy source, the balloon.
const FIXED_DEVICES: usize = 3;

/// Descriptors that the emulator inherits, by the numbers that they have in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inherited {
    /// The kernel, open for reading.
    pub kernel: RawFd,
    /// The initrd, open for reading.
    pub initrd: RawFd,
    /// A connected vhost-user socket per disk, in slot order.
    pub disks: Vec<RawFd>,
    /// The connected vhost-user socket of the vsock device.
    pub vsock: RawFd,
    /// The connected vhost-user socket of the file daemon, where the machine has shared files.
    pub files: Option<RawFd>,
    /// Where the serial console goes, open for appending.
    pub console: Option<RawFd>,
}

/// What the guest's kernel is told beyond the spec's command line.
fn append<F>(spec: &MachineSpec<F>, tsc_khz: Option<u32>) -> String {
    let mut line = spec.cmdline.clone();
    line.push_str(" reboot=t no_timer_check");
    if spec.vcpus == 1 {
        // Saves the calibration of the local timer; several CPUs need theirs.
        line.push_str(" noapictimer");
    }
    if let Some(khz) = tsc_khz {
        line.push_str(&format!(" tsc=reliable tsc_early_khz={khz}"));
    }
    if spec.console.is_some() {
        line.push_str(" 8250.nr_uarts=1 console=ttyS0");
    }
    line
}

/// The emulator's arguments for `spec`, without the program. `tsc_khz` is the frequency of the host's time stamp counter.
#[must_use]
pub fn arguments<F>(spec: &MachineSpec<F>, inherited: &Inherited, tsc_khz: Option<u32>) -> Vec<OsString> {
    let mut line = Line(Vec::new());
    line.add("-nodefaults").add("-no-user-config").add("-no-reboot");
    line.pair("-display", "none");
    line.pair("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    let serial = if inherited.console.is_some() { "on" } else { "off" };
    line.pair("-M", format!("microvm,acpi=off,rtc=on,isa-serial={serial},memory-backend=mem"));
    // One thread for all vCPUs: the guest's kernel patches its own code while they run, which the emulator's
    // threads do not keep coherent.
    line.pair("-accel", "tcg,thread=single");
    line.pair("-cpu", "max");
    line.pair("-smp", spec.vcpus.to_string());
    line.pair("-m", format!("size={}M", spec.memory_mib));
    line.pair("-object", format!("memory-backend-memfd,id=mem,size={}M,share=on", spec.memory_mib));
    line.pair("-global", "virtio-mmio.force-legacy=false");
    line.pair("-kernel", format!("/proc/self/fd/{}", inherited.kernel));
    line.pair("-initrd", format!("/proc/self/fd/{}", inherited.initrd));
    line.pair("-append", append(spec, tsc_khz));
    for (slot, socket) in inherited.disks.iter().enumerate() {
        line.pair("-chardev", format!("socket,id=disk{slot},fd={socket}"));
        line.pair("-device", format!("vhost-user-blk,chardev=disk{slot},num-queues=1"));
    }
    line.pair("-chardev", format!("socket,id=vsock,fd={}", inherited.vsock));
    line.pair("-device", "vhost-user-vsock-device,chardev=vsock");
    if let (Some(socket), Some(shared)) = (inherited.files, &spec.shared_files) {
        line.pair("-chardev", format!("socket,id=files,fd={socket}"));
        line.pair("-device", format!("vhost-user-fs-device,chardev=files,tag={},queue-size=1024", shared.tag));
    }
    line.pair("-device", "virtio-rng-device");
    if inherited.disks.len() + usize::from(inherited.files.is_some()) + FIXED_DEVICES <= TRANSPORTS {
        line.pair("-device", "virtio-balloon-device,free-page-reporting=on");
    }
    if let Some(console) = inherited.console {
        line.pair("-chardev", format!("file,id=console,path=/proc/self/fd/{console},append=on"));
        line.pair("-serial", "chardev:console");
    }
    line.0
}

struct Line(Vec<OsString>);

impl Line {
    fn add(&mut self, argument: impl Into<OsString>) -> &mut Self {
        self.0.push(argument.into());
        self
    }

    fn pair(&mut self, option: &str, value: impl Into<OsString>) {
        self.add(option).add(value);
    }
}

#[cfg(test)]
mod tests {
    use machine::{KernelLogRegion, SharedFiles, Vsock};

    use super::*;

    fn lines(spec: &MachineSpec<()>, inherited: &Inherited, tsc_khz: Option<u32>) -> String {
        let arguments = arguments(spec, inherited, tsc_khz);
        let mut text = String::new();
        for argument in arguments {
            let argument = argument.into_string().unwrap();
            text.push_str(if argument.starts_with('-') { "\n" } else { " " });
            text.push_str(&argument);
        }
        text
    }

    fn spec(vcpus: u8, memory_mib: u32) -> MachineSpec<()> {
        MachineSpec {
            vcpus,
            memory_mib,
            kernel: (),
            initrd: (),
            cmdline: "quiet panic=-1".into(),
            disks: Vec::new(),
            vsock: Vsock { guest_cid: 3, channel: Some(()) },
            shared_files: None,
            kernel_log: KernelLogRegion::STANDARD,
            console: None,
        }
    }

    #[test]
    fn golden_container() {
        let inherited =
            Inherited { kernel: 10, initrd: 11, disks: vec![12, 13], vsock: 14, files: None, console: None };
        assert_eq!(
            lines(&spec(2, 512), &inherited, Some(2_500_123)),
            "
-nodefaults
-no-user-config
-no-reboot
-display none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-M microvm,acpi=off,rtc=on,isa-serial=off,memory-backend=mem
-accel tcg,thread=single
-cpu max
-smp 2
-m size=512M
-object memory-backend-memfd,id=mem,size=512M,share=on
-global virtio-mmio.force-legacy=false
-kernel /proc/self/fd/10
-initrd /proc/self/fd/11
-append quiet panic=-1 reboot=t no_timer_check tsc=reliable tsc_early_khz=2500123
-chardev socket,id=disk0,fd=12
-device vhost-user-blk,chardev=disk0,num-queues=1
-chardev socket,id=disk1,fd=13
-device vhost-user-blk,chardev=disk1,num-queues=1
-chardev socket,id=vsock,fd=14
-device vhost-user-vsock-device,chardev=vsock
-device virtio-rng-device
-device virtio-balloon-device,free-page-reporting=on"
        );
    }

    #[test]
    fn golden_shared_files() {
        let files = |disks| Inherited { kernel: 3, initrd: 4, disks, vsock: 5, files: Some(9), console: None };
        let shared_files = Some(SharedFiles { tag: "binds".into(), channel: None });
        let spec = MachineSpec { shared_files, ..spec(1, 64) };
        let text = lines(&spec, &files(vec![6, 7]), None);
        let expected = "
-chardev socket,id=vsock,fd=5
-device vhost-user-vsock-device,chardev=vsock
-chardev socket,id=files,fd=9
-device vhost-user-fs-device,chardev=files,tag=binds,queue-size=1024
-device virtio-rng-device
-device virtio-balloon-device,free-page-reporting=on";
        assert!(text.ends_with(expected), "{text}");
        assert!(lines(&spec, &files(vec![6, 7, 8, 10]), None).contains("balloon"));
        assert!(!lines(&spec, &files(vec![6, 7, 8, 10, 11]), None).contains("balloon"));
    }

    #[test]
    fn golden_console() {
        let inherited = Inherited { kernel: 3, initrd: 4, disks: vec![], vsock: 5, files: None, console: Some(6) };
        assert_eq!(
            lines(&MachineSpec { console: Some(()), ..spec(1, 64) }, &inherited, None),
            "
-nodefaults
-no-user-config
-no-reboot
-display none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-M microvm,acpi=off,rtc=on,isa-serial=on,memory-backend=mem
-accel tcg,thread=single
-cpu max
-smp 1
-m size=64M
-object memory-backend-memfd,id=mem,size=64M,share=on
-global virtio-mmio.force-legacy=false
-kernel /proc/self/fd/3
-initrd /proc/self/fd/4
-append quiet panic=-1 reboot=t no_timer_check noapictimer 8250.nr_uarts=1 console=ttyS0
-chardev socket,id=vsock,fd=5
-device vhost-user-vsock-device,chardev=vsock
-device virtio-rng-device
-device virtio-balloon-device,free-page-reporting=on
-chardev file,id=console,path=/proc/self/fd/6,append=on
-serial chardev:console"
        );
    }
}
