//! The emulator, its devices, and what it boots.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ::machine::{BlockBacking, Disk, Extent, KernelLogRegion, Vsock};
use command_fds::{CommandFdExt, FdMapping};
use devices::vhost_user::{self, MemoryCell};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

const CMDLINE: &str = "8250.nr_uarts=1 console=ttyS0 loglevel=7 panic=-1 reboot=t no_timer_check noapictimer tsc=reliable \
    ramoops.mem_address=0x800000 ramoops.mem_size=0x10000 ramoops.console_size=0x10000 ramoops.record_size=0 \
    ramoops.pmsg_size=0 ramoops.ftrace_size=0 memmap=0x10000$0x800000";

const DEVICES: [&str; 3] = ["vhost-user-blk", "vhost-user-blk", "vhost-user-vsock-device"];

/// A running machine.
pub(crate) struct Machine {
    pub(crate) channel: OwnedFd,
    memory: MemoryCell,
    qemu: Child,
    scratch: std::path::PathBuf,
    devices: Vec<JoinHandle<()>>,
    lines: mpsc::Receiver<String>,
    output: String,
}

impl Machine {
    pub(crate) fn start(kernel: &Path, directory: &Path) -> Self {
        let initrd = make_initrd(directory);
        let (root, scratch) = make_disks(directory);
        let (channel, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socketpair");
        let size = root.metadata().expect("size").len();
        let half = size / 2 / 4096 * 4096;
        let extent = |offset, length| Extent { file: 0, offset, length };
        let disks = [
            Disk::new("root", BlockBacking::ReadOnly { extents: vec![extent(0, half), extent(half, size - half)] }),
            Disk::new("scratch", BlockBacking::Writable { file: 1 }),
        ];
        let scratch_file = File::options().read(true).write(true).open(&scratch).expect("scratch");
        let files = [Arc::new(root), Arc::new(scratch_file), Arc::new(File::from(theirs))];
        let vsock = Vsock { guest_cid: 3, channel: Some(2) };
        let devices = devices::from_spec(&disks, &vsock, None, &files).expect("devices");

        let memory = MemoryCell::default();
        let mut sockets = Vec::new();
        let mut threads = Vec::new();
        for device in devices.into_iter().take(DEVICES.len()) {
            let (ours, theirs) = UnixStream::pair().expect("socketpair");
            sockets.push(OwnedFd::from(theirs));
            let memory = memory.clone();
            threads.push(thread::spawn(move || vhost_user::serve(device, ours, &memory).expect("vhost-user")));
        }
        let mut qemu = launch(kernel, &initrd, sockets);
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(qemu.stdout.take().expect("stdout"));
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { channel, memory, qemu, scratch, devices: threads, lines, output: String::new() }
    }

    pub(crate) fn wait_for(&mut self, text: &str) {
        let end = Instant::now() + Duration::from_secs(120);
        while !self.output.contains(text) {
            let line = self.lines.recv_timeout(end - Instant::now()).unwrap_or_else(|_| panic!("{text} never came"));
            println!("  | {line}");
            self.output.push_str(&line);
            self.output.push('\n');
        }
    }

    pub(crate) fn output(&self) -> &str {
        &self.output
    }

    pub(crate) fn scratch_kib(&self) -> u64 {
        self.scratch.metadata().expect("scratch").blocks() / 2
    }

    pub(crate) fn kernel_log(&self) -> Vec<u8> {
        devices::kernel_log::read(&self.memory.get().expect("memory"), &KernelLogRegion::STANDARD)
    }

    pub(crate) fn power_off(&mut self) {
        drop(crate::streams::connect(&self.channel, 1004));
        println!("qemu: {}", self.qemu.wait().expect("qemu"));
        self.devices.drain(..).for_each(|thread| thread.join().expect("device"));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Already gone if all went well.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn launch(kernel: &Path, initrd: &Path, sockets: Vec<OwnedFd>) -> Child {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-M", "microvm,acpi=off,memory-backend=mem", "-global", "virtio-mmio.force-legacy=false"]);
    command.args(["-object", "memory-backend-memfd,id=mem,size=256M,share=on", "-m", "256M"]);
    command.args(["-accel", "tcg", "-cpu", "max", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-serial", "stdio", "-append", CMDLINE, "-kernel"]).arg(kernel).arg("-initrd").arg(initrd);
    let mut mappings = Vec::new();
    for (index, (socket, device)) in sockets.into_iter().zip(DEVICES).enumerate() {
        let fd = 10 + i32::try_from(index).expect("few");
        command.arg("-chardev").arg(format!("socket,id=c{index},fd={fd}"));
        command.arg("-device").arg(format!("{device},chardev=c{index}"));
        mappings.push(FdMapping { parent_fd: socket, child_fd: fd });
    }
    if std::env::var_os("SHOW").is_some() {
        println!("{command:?}");
    }
    command.fd_mappings(mappings).expect("descriptors").stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().expect("qemu-system-x86_64")
}

fn make_initrd(directory: &Path) -> std::path::PathBuf {
    let root = directory.join("initrd");
    for name in ["bin", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(root.join(name)).expect("a directory");
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/emulated");
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("a static busybox");
    fs::copy(source.join("init.sh"), root.join("init")).expect("init");
    shell(&format!("chmod 755 {}/init", root.display()));
    shell(&format!("cc -O2 -static -o {}/guest {}/guest.c", root.display(), source.display()));
    let archive = directory.join("initrd.cpio");
    shell(&format!("cd {} && find . | cpio -o -H newc --quiet > {}", root.display(), archive.display()));
    archive
}

fn make_disks(directory: &Path) -> (File, std::path::PathBuf) {
    let d = directory.display();
    shell(&format!(
        "mkdir {d}/tree && cd {d}/tree && mkdir files && for i in 1 2 3 4 5 6 7 8; do \
         head -c ${{i}}000003 /dev/urandom > files/$i; done && sha256sum files/* > sums && \
         mkfs.erofs --quiet {d}/root.erofs {d}/tree && truncate -s %4096 {d}/root.erofs && \
         truncate -s 256M {d}/scratch && mkfs.ext4 -q -E lazy_itable_init=1 {d}/scratch"
    ));
    (File::open(directory.join("root.erofs")).expect("root"), directory.join("scratch"))
}

fn shell(line: &str) {
    let status = Command::new("sh").args(["-ec", line]).status().expect("sh");
    assert!(status.success(), "{line}");
}
