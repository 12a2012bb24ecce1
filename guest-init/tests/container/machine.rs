//! A "machine": the agent's process and the host's session with it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use guest::{Event, GuestError, Reply, Session, StdioRequest, Streams, Timeouts};
use protocol::{
    Capabilities, ContainerConfig, ContainerId, ExitStatus, Limits, ProcessId, ProcessSpec, Question, SpawnError,
    TerminalSize,
};
use tempfile::TempDir;

use crate::image::{self, Loop};

/// Docker's default set.
pub(crate) const DOCKER: u64 = 0xa804_25fb;

const PATIENCE: Duration = Duration::from_secs(60);

/// Everything of one machine.
pub(crate) struct Machine {
    pub(crate) session: Session,
    listeners: [(u32, UnixListener); 2],
    pub(crate) agent: Child,
    pub(crate) directory: TempDir,
    pub(crate) scratch: Option<Loop>,
    volumes: Vec<(String, Loop)>,
    _root: Loop,
    cgroups: PathBuf,
    /// Events that were not asked for yet.
    seen: Vec<Event>,
}

/// What became of a process.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Outcome {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

pub(crate) fn container() -> ContainerId {
    ContainerId("c0ffee".to_owned())
}

pub(crate) fn config() -> ContainerConfig {
    ContainerConfig {
        root_disk: "root".to_owned(),
        scratch_disk: "scratch".to_owned(),
        read_only: false,
        hostname: "coracle-test".to_owned(),
        hosts_file: "127.0.0.1 localhost\n".to_owned(),
        resolv_conf: "nameserver 192.0.2.1\n".to_owned(),
        privileged: false,
        tmpfs: vec![],
        volumes: vec![],
        binds: vec![],
        shm_size: 64 << 20,
        sysctls: vec![],
        limits: Limits::default(),
        wall_clock: (1_700_000_000, 0),
    }
}

pub(crate) fn spec(argv: &[&str]) -> ProcessSpec {
    ProcessSpec {
        argv: argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/bin".to_vec()],
        cwd: "/".to_owned(),
        user: String::new(),
        additional_groups: vec![],
        capabilities: Capabilities { bounding: DOCKER },
        no_new_privileges: false,
        ..ProcessSpec::default()
    }
}

pub(crate) fn sh(script: &str) -> ProcessSpec {
    spec(&["sh", "-c", script])
}

pub(crate) const PIPES: StdioRequest = StdioRequest::Pipes { stdin: true, stdout: true, stderr: true };

fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    PathBuf::from(mount.expect("a cgroup2 mount is needed").split(' ').nth(1).unwrap())
}

fn start_agent(directory: &Path) -> Child {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--uts", "--ipc", "--net", "--kill-child"]);
    command.args(["--propagation", "private", "--mount-proc"]);
    command.arg(std::env::current_exe().unwrap()).arg("agent").arg(directory);
    command.spawn().expect("unshare is needed")
}

impl Machine {
    /// A machine whose image is a default tree that `change` worked on.
    pub(crate) fn boot(change: impl FnOnce(&Path)) -> Self {
        Self::boot_with_volumes(&[], change)
    }

    /// As [`Machine::boot`], with new volume disks of these serials.
    pub(crate) fn boot_with_volumes(serials: &[&str], change: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let tree = image::tree(path);
        change(&tree);
        let (root, scratch) = (image::root_disk(path, &tree), image::scratch_disk(path));
        fs::write(path.join("disk-root"), &root.0).unwrap();
        fs::write(path.join("disk-scratch"), &scratch.0).unwrap();
        let mut volumes = Vec::new();
        for serial in serials {
            let disk = image::ext4_disk(path, serial);
            fs::write(path.join(format!("disk-{serial}")), &disk.0).unwrap();
            volumes.push(((*serial).to_owned(), disk));
        }
        fs::create_dir(path.join("work")).unwrap();
        let cgroups = cgroup_root().join(format!("guest-init-test-{}", std::process::id()));
        let _ = fs::create_dir(&cgroups);
        fs::write(path.join("cgroups"), cgroups.to_str().unwrap()).unwrap();
        let listeners = [protocol::CONTROL_PORT, protocol::STREAM_PORT].map(|port| {
            let listener = UnixListener::bind(path.join(port.to_string())).unwrap();
            listener.set_nonblocking(true).unwrap();
            (port, listener)
        });
        let agent = start_agent(path);
        let session = Session::new(Timeouts::default()).unwrap();
        let mut machine = Self {
            session,
            listeners,
            agent,
            directory,
            scratch: Some(scratch),
            volumes,
            _root: root,
            cgroups,
            seen: vec![],
        };
        let hello = machine.next(|event| matches!(event, Event::Hello(_)));
        assert!(matches!(hello, Event::Hello(hello) if hello.sent >= hello.init_started));
        machine
    }

    /// A machine with a container.
    pub(crate) fn with(config: ContainerConfig, change: impl FnOnce(&Path)) -> Self {
        let mut machine = Self::boot(change);
        machine.create(config).unwrap();
        machine
    }

    pub(crate) fn plain() -> Self {
        Self::with(config(), |_| ())
    }

    pub(crate) fn create(&mut self, config: ContainerConfig) -> Result<(), String> {
        self.session.create(container(), config).unwrap();
        match self.next(|event| matches!(event, Event::Created { .. } | Event::CreateFailed { .. })) {
            Event::CreateFailed { error, .. } => Err(error),
            _ => Ok(()),
        }
    }

    /// Turns the session for a moment.
    pub(crate) fn turn(&mut self) -> Result<(), GuestError> {
        for (port, listener) in &self.listeners {
            match listener.accept() {
                Ok((stream, _)) => self.session.offer(*port, stream).unwrap(),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        let events = self.session.wait(Instant::now() + Duration::from_millis(2))?;
        self.seen.extend(events);
        Ok(())
    }

    /// The next event that fits; others are kept.
    pub(crate) fn next(&mut self, fits: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(index) = self.seen.iter().position(&fits) {
                return self.seen.remove(index);
            }
            assert!(Instant::now() < deadline, "no such event; seen: {:?}", self.seen);
            self.turn().unwrap_or_else(|error| panic!("session: {error}; seen: {:?}", self.seen));
        }
    }

    pub(crate) fn spawn(&mut self, spec: ProcessSpec, stdio: StdioRequest) -> Result<(ProcessId, Streams), SpawnError> {
        let process = self.session.spawn(&container(), spec, stdio).unwrap();
        match self.next(|event| matches!(event, Event::Spawned { .. } | Event::SpawnFailed { .. })) {
            Event::Spawned { streams, .. } => Ok((process, streams)),
            Event::SpawnFailed { error, .. } => Err(error),
            _ => unreachable!(),
        }
    }

    pub(crate) fn exit(&mut self, process: ProcessId) -> ExitStatus {
        let fits = |event: &Event| matches!(event, Event::Exited { process: ended, .. } if *ended == process);
        match self.next(fits) {
            Event::Exited { status, .. } => status,
            _ => unreachable!(),
        }
    }

    /// Runs a process to its end with all of its input.
    pub(crate) fn run(&mut self, spec: ProcessSpec, input: Vec<u8>) -> Outcome {
        let (process, streams) = self.spawn(spec, PIPES).unwrap();
        let Streams::Pipes { stdin: Some(stdin), stdout: Some(stdout), stderr: Some(stderr) } = streams else {
            panic!("streams are missing")
        };
        let writer = thread::spawn(move || {
            let mut stdin = stdin;
            stdin.set_nonblocking(false).unwrap();
            let _ = stdin.write_all(&input);
            let _ = stdin.shutdown(Shutdown::Write);
            // Until the guest closes it, so that what is under way is not lost.
            let _ = stdin.read(&mut [0]);
        });
        let (stdout, stderr) = (read_all(stdout), read_all(stderr));
        let status = self.exit(process);
        writer.join().unwrap();
        Outcome { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
    }

    pub(crate) fn shell(&mut self, script: &str) -> Outcome {
        self.run(sh(script), vec![])
    }

    /// Powers off; the scratch disk must be clean.
    pub(crate) fn power_off(&mut self) {
        self.session.power_off().unwrap();
        self.next(|event| matches!(event, Event::PoweringOff));
        self.next(|event| matches!(event, Event::Ended));
        assert!(self.agent.wait().unwrap().success());
        let image = self.directory.path().join("scratch.ext4");
        drop(self.scratch.take());
        image::tool("e2fsck", &["-fn", image.to_str().unwrap()]);
    }

    /// Powers off, and gives the disks to a new machine with the same image.
    pub(crate) fn restart(mut self) -> Self {
        self.session.power_off().unwrap();
        self.next(|event| matches!(event, Event::Ended));
        assert!(self.agent.wait().unwrap().success());
        for name in self.volumes.iter().map(|(serial, _)| serial.as_str()) {
            image::tool("e2fsck", &["-fn", self.directory.path().join(format!("{name}.ext4")).to_str().unwrap()]);
        }
        let _ = fs::remove_dir(self.cgroups.join(container().0));
        self.agent = start_agent(self.directory.path());
        self.session = Session::new(Timeouts::default()).unwrap();
        self.seen.clear();
        self.next(|event| matches!(event, Event::Hello(_)));
        self
    }

    /// Makes a volume's disk read-only.
    pub(crate) fn lock(&mut self, serial: &str) {
        let (_, disk) = self.volumes.iter().find(|(known, _)| known == serial).expect("it was made");
        image::tool("blockdev", &["--setro", &disk.0]);
    }

    /// Asks, and waits for the reply.
    pub(crate) fn ask(&mut self, question: Question) -> Reply {
        let asked = self.session.ask(&container(), question).unwrap();
        match self.next(|event| matches!(event, Event::Answered { request, .. } if *request == asked)) {
            Event::Answered { reply, .. } => reply,
            _ => unreachable!(),
        }
    }

    pub(crate) fn agent_lives(&mut self) -> bool {
        self.agent.try_wait().unwrap().is_none()
    }

    /// A file of the agent in `/proc`.
    pub(crate) fn agent_file(&self, name: &str) -> PathBuf {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.agent.id())).unwrap();
        Path::new("/proc").join(children.trim()).join(name)
    }

    /// Processor time of the agent, in clock ticks.
    pub(crate) fn agent_ticks(&self) -> u64 {
        let stat = fs::read_to_string(self.agent_file("stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        thread::sleep(Duration::from_millis(20));
        let _ = fs::remove_dir(self.cgroups.join(container().0));
        let _ = fs::remove_dir(&self.cgroups);
    }
}

/// Reads a stream to its end, aside.
pub(crate) fn read_all(stream: UnixStream) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut stream = stream;
        stream.set_nonblocking(false).unwrap();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Reads a terminal until it shows a text.
pub(crate) fn read_until(stream: &mut UnixStream, wanted: &str) -> String {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    let mut chunk = [0; 4096];
    while !text.contains(wanted) {
        let length = stream.read(&mut chunk).unwrap_or_else(|error| panic!("{error}: {text:?}"));
        assert!(length > 0, "ended without {wanted:?}: {text:?}");
        text.push_str(&String::from_utf8_lossy(&chunk[..length]));
    }
    text
}

pub(crate) const SIZE: TerminalSize = TerminalSize { rows: 40, columns: 120 };
