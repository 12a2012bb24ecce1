//! A monitor for tests: starts `coracle-vmm`, hands it files and a spec, and listens.

// Each user of this module uses another part of it.
#![allow(dead_code)]

use std::fs::File;
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use machine::{
    Disk, End, EndReason, FILES_PER_MESSAGE, FileIndex, FromMachine, KernelLogRegion, MAX_MESSAGE, MachineSpec,
    ProbeReport, ToMachine, Vsock,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv,
    sendmsg, socketpair, sockopt,
};

/// The longest that a test waits for a message.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A connected pair of `SOCK_SEQPACKET` sockets.
pub(crate) fn seqpacket() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

/// A `coracle-vmm` process and the monitor's end of its socket.
pub(crate) struct Monitor {
    pub(crate) socket: OwnedFd,
    pub(crate) process: Child,
}

impl Monitor {
    /// Starts `program job`.
    pub(crate) fn start(program: &Path, job: &str, stderr: Stdio) -> Self {
        let (socket, theirs) = seqpacket();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE)).unwrap();
        let process = Command::new(program).arg(job).stdin(Stdio::from(theirs)).stderr(stderr).spawn().unwrap();
        Self { socket, process }
    }

    /// Sends a message with descriptors.
    pub(crate) fn send(&self, message: &ToMachine, files: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_PER_MESSAGE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(files)));
        }
        let bytes = machine::encode(message).unwrap();
        sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    /// Sends files and the order to be `spec`.
    pub(crate) fn launch(&self, spec: &MachineSpec<FileIndex>, files: &[OwnedFd]) {
        for files in files.chunks(FILES_PER_MESSAGE) {
            let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            self.send(&ToMachine::Files { count: u32::try_from(files.len()).unwrap() }, &borrowed);
        }
        self.send(&ToMachine::Launch { spec: spec.clone() }, &[]);
    }

    /// The next message; panics if none comes.
    pub(crate) fn receive(&self) -> FromMachine {
        let mut bytes = vec![0; MAX_MESSAGE];
        let (count, _) = recv(&self.socket, &mut bytes, RecvFlags::empty()).expect("no message came in time");
        assert_ne!(count, 0, "the process closed its socket without a last word");
        machine::decode(&bytes[..count]).unwrap()
    }

    /// Waits for the start and returns its time.
    pub(crate) fn started(&self) -> u64 {
        match self.receive() {
            FromMachine::Started { at } => at,
            other => panic!("instead of Started came {other:?}"),
        }
    }

    /// Waits for the end and for the process to exit.
    pub(crate) fn ended(&mut self) -> (End, ExitStatus) {
        let end = loop {
            match self.receive() {
                FromMachine::Ended(end) => break end,
                FromMachine::Started { .. } | FromMachine::KernelLog(_) => {}
            }
        };
        (end, self.exited())
    }

    /// Waits for the process to exit.
    pub(crate) fn exited(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the process does not exit");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a machine is made of here: a spec and its files.
pub(crate) struct Parts {
    pub(crate) spec: MachineSpec<FileIndex>,
    pub(crate) files: Vec<OwnedFd>,
    /// The host's end of the vsock channel.
    pub(crate) vsock: OwnedFd,
}

impl Parts {
    /// One vCPU and 32 MiB without disks.
    pub(crate) fn new(kernel: File, initrd: File) -> Self {
        let (vsock, theirs) = seqpacket();
        let spec = MachineSpec {
            vcpus: 1,
            memory_mib: 32,
            kernel: 0,
            initrd: 1,
            cmdline: String::new(),
            disks: Vec::<Disk<FileIndex>>::new(),
            vsock: Vsock { guest_cid: machine::vsock::GUEST_CID, channel: Some(2) },
            shared_files: None,
            kernel_log: KernelLogRegion::STANDARD,
            console: None,
        };
        Self { spec, files: vec![kernel.into(), initrd.into(), theirs], vsock }
    }

    /// Adds a file and returns its index.
    pub(crate) fn add(&mut self, file: impl Into<OwnedFd>) -> FileIndex {
        self.files.push(file.into());
        u32::try_from(self.files.len() - 1).unwrap()
    }

    /// A machine whose kernel is `code`, 32-bit instructions that start at 16 MiB.
    pub(crate) fn with_code(code: &[u8]) -> Self {
        Self::new(file_of(&kernel(code)), file_of(b"initrd"))
    }
}

/// A file with these contents, read from its start.
pub(crate) fn file_of(contents: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(contents).unwrap();
    file
}

/// An ELF kernel with a PVH entry at 16 MiB, where `code` is.
pub(crate) fn kernel(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 16 << 20;
    let mut file = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes()); // e_type: executable
    put(18, &62u16.to_le_bytes()); // e_machine: x86-64
    put(32, &64u64.to_le_bytes()); // e_phoff
    put(54, &56u16.to_le_bytes()); // e_phentsize
    put(56, &2u16.to_le_bytes()); // e_phnum
    let mut header = |index: usize, kind: u32, offset: u64, paddr: u64, length: u64| {
        let at = 64 + index * 56;
        put(at, &kind.to_le_bytes());
        for (field, value) in [(8, offset), (24, paddr), (32, length), (40, length)] {
            put(at + field, &value.to_le_bytes());
        }
    };
    header(0, 1, 0x1000, BASE, code.len() as u64);
    header(1, 4, 0x800, 0, 20);
    let entry = u32::try_from(BASE).unwrap();
    put(0x800, &[4, 4, 18, u32::from_le_bytes(*b"Xen\0"), entry].map(u32::to_le_bytes).concat());
    file.extend(code);
    file
}

/// Asks the probe whether guests run here.
pub(crate) fn probe(program: &Path) -> (ProbeReport, ExitStatus) {
    let output = Command::new(program).arg("probe").output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(line.ends_with('\n') && line.lines().count() == 1, "{line:?}");
    (serde_json::from_str(&line).unwrap(), output.status)
}

/// The reason as a set-up text; panics otherwise.
pub(crate) fn setup_text(reason: EndReason) -> String {
    match reason {
        EndReason::Setup(text) => text,
        other => panic!("instead of a set-up error: {other:?}"),
    }
}
