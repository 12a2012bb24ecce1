//! A directory with the files of a machine and its programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use machine::{BlockBacking, Disk, Extent, KernelLogRegion, MachineSpec, Vsock};
use monitor::{Accelerator, Machine, Surroundings, Tools, launch};

/// One at a time: some tests count this program's descriptors.
static TURN: Mutex<()> = Mutex::new(());

pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        for name in ["kernel", "initrd", "layer", "scratch"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        Self { dir, _turn: turn }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn spec(&self) -> MachineSpec<PathBuf> {
        let extent = Extent { file: self.path("layer"), offset: 0, length: 4096 };
        let root = BlockBacking::ReadOnly { extents: vec![extent] };
        let scratch = BlockBacking::Writable { file: self.path("scratch") };
        MachineSpec {
            vcpus: 1,
            memory_mib: 64,
            kernel: self.path("kernel"),
            initrd: self.path("initrd"),
            cmdline: "quiet".into(),
            disks: vec![Disk::new("root", root), Disk::new("scratch", scratch)],
            vsock: Vsock { guest_cid: 3, channel: None },
            shared_files: None,
            kernel_log: KernelLogRegion::STANDARD,
            console: None,
        }
    }

    pub(crate) fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A program that behaves as [`crate::fake::run`] says for `behaviour`.
    pub(crate) fn fake(&self, name: &str, behaviour: &str) -> PathBuf {
        let program = this_program();
        self.script(name, &format!("FAKE={behaviour} exec {} --exact fake_process --nocapture", program.display()))
    }

    pub(crate) fn kvm(&self, behaviour: &str) -> Machine {
        let tools = Tools { vmm: self.fake("vmm", behaviour), emulator: None };
        launch(self.spec(), Accelerator::Kvm, &tools, Surroundings::default()).unwrap()
    }

    pub(crate) fn emulated(&self, devices: &str, emulator: &str) -> Machine {
        let tools = Tools { vmm: self.fake("vmm", devices), emulator: Some(self.fake("emulator", emulator)) };
        launch(self.spec(), Accelerator::Emulated, &tools, Surroundings::default()).unwrap()
    }
}

pub(crate) fn this_program() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// A deadline for what takes milliseconds.
pub(crate) fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(20))
}

pub(crate) fn pids(machine: &Machine) -> Vec<u32> {
    machine.processes().iter().map(|process| process.pid).collect()
}

/// A zombie is not alive.
pub(crate) fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub(crate) fn gone_within(pids: &[u32], limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while pids.iter().any(|pid| alive(*pid)) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

pub(crate) fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

pub(crate) fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
