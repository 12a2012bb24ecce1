//! The keeper against a machine and a guest that are threads of this process: what the guest says is scripted.

use std::{
    io::{PipeReader, PipeWriter, Read, Write},
    os::fd::OwnedFd,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use monitor::MachineEndReason;
use protocol::{
    CONTROL_PORT, ExitStatus, FrameBuffer, GuestMessage, Hello, HostMessage, STREAM_PORT, Stdio as GuestStdio,
    StreamOpen, StreamToken, encode_frame,
};
use state::{ContainerRecord, ContainerState, ImageRecord, RootRecord, State};

use std::os::{
    fd::{AsFd, BorrowedFd},
    unix::net::UnixStream,
};

use monitor::{MachineEnd, MachineProcess, VsockError};
use protocol::{ContainerId, TerminalSize};

use super::*;
use crate::{
    ending::Reason,
    home::Home,
    keeper::{
        client::Connection,
        policy::{LogSettings, RestartPolicy, StopSettings},
        wire::{AttachedStreams, Receiver, ToKeeper, send},
    },
    plan::{self, Files, Host, ImageDefaults},
    request::RunRequest,
};

/// A machine without a guest kernel: an end that a test decides, and connections that a test makes.
#[derive(Debug, Clone)]
struct FakeMachine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    end: Mutex<Option<MachineEnd>>,
    changed: Condvar,
    ended: (UnixStream, UnixStream),
    offered: Mutex<Vec<(u32, UnixStream)>>,
    bell: (UnixStream, UnixStream),
    paused: AtomicBool,
}

impl FakeMachine {
    fn new() -> Self {
        let pair = || {
            let pair = UnixStream::pair().unwrap();
            pair.0.set_nonblocking(true).unwrap();
            pair
        };
        Self(Arc::new(Shared {
            end: Mutex::new(None),
            changed: Condvar::new(),
            ended: pair(),
            offered: Mutex::new(Vec::new()),
            bell: pair(),
            paused: AtomicBool::new(false),
        }))
    }

    fn end(&self, reason: MachineEndReason) -> MachineEnd {
        let mut end = self.0.end.lock().unwrap();
        let kernel_log = b"[    0.5] the last line\n".to_vec();
        let end = end.get_or_insert(MachineEnd { reason, kernel_log, stderr: Vec::new(), at: 1 }).clone();
        self.0.changed.notify_all();
        (&self.0.ended.1).write_all(b"e").unwrap();
        end
    }

    fn connect(&self, port: u32) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.0.offered.lock().unwrap().push((port, theirs));
        (&self.0.bell.1).write_all(b"c").unwrap();
        ours
    }
}

impl Hull for FakeMachine {
    fn processes(&self) -> &[MachineProcess] {
        &[]
    }

    fn pause(&self) -> std::io::Result<()> {
        self.0.paused.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn resume(&self) -> std::io::Result<()> {
        self.0.paused.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn limit_cpu(&self, _milli: u32) {}

    fn ended_fd(&self) -> BorrowedFd<'_> {
        self.0.ended.0.as_fd()
    }

    fn vsock_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.0.as_fd()
    }

    fn try_accept(&self) -> Result<Option<(u32, UnixStream)>, VsockError> {
        let _ = (&self.0.bell.0).read(&mut [0; 1]);
        let mut offered = self.0.offered.lock().unwrap();
        Ok(if offered.is_empty() { None } else { Some(offered.remove(0)) })
    }

    fn wait(&self, deadline: Instant) -> Option<MachineEnd> {
        let end = self.0.end.lock().unwrap();
        let patience = deadline.saturating_duration_since(Instant::now());
        self.0.changed.wait_timeout_while(end, patience, |end| end.is_none()).unwrap().0.clone()
    }

    fn stop(&self) -> MachineEnd {
        self.end(MachineEndReason::Stopped)
    }

    fn started_at(&self) -> Option<u64> {
        Some(timings::now())
    }

    fn kernel_log(&self) -> Option<Vec<u8>> {
        Some(b"[    0.4] still booting\n".to_vec())
    }
}

/// The guest's end of the conversation, step by step.
struct Guest {
    machine: FakeMachine,
    control: UnixStream,
    frames: FrameBuffer,
}

/// A process in the guest and its streams.
struct Process {
    id: ProcessId,
    stdin: Option<UnixStream>,
    stdout: UnixStream,
    stderr: Option<UnixStream>,
}

impl Guest {
    fn boot(machine: &FakeMachine) -> Self {
        let control = machine.connect(CONTROL_PORT);
        let mut guest = Self { machine: machine.clone(), control, frames: FrameBuffer::new() };
        let hello = Hello { version: protocol::VERSION, kernel_release: "6.12".into(), init_started: 5, sent: 9 };
        guest.say(&GuestMessage::Hello(hello));
        guest
    }

    fn say(&mut self, message: &GuestMessage) {
        self.control.write_all(&encode_frame(message).unwrap()).unwrap();
    }

    /// The next message, or `None` when the host has hung up.
    fn hear(&mut self) -> Option<HostMessage> {
        let mut bytes = [0; 4096];
        loop {
            if let Some(message) = self.frames.take_message().unwrap() {
                return Some(message);
            }
            match self.control.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.frames.extend(&bytes[..count]),
            }
        }
    }

    fn create(&mut self) {
        let Some(HostMessage::Create { container, config }) = self.hear() else { panic!("no create") };
        assert!(config.wall_clock.0 > 1_600_000_000);
        self.say(&GuestMessage::Created { container });
    }

    fn spawn(&mut self) -> Process {
        let process = self.spawn_exec();
        assert!(process.stderr.is_some() || process.stdin.is_none());
        process
    }

    /// A process with whatever streams it is to have.
    fn spawn_exec(&mut self) -> Process {
        let Some(HostMessage::Spawn { container, process, stdio, .. }) = self.hear() else { panic!("no spawn") };
        let open = |token: StreamToken| {
            let mut stream = self.machine.connect(STREAM_PORT);
            stream.write_all(&encode_frame(&StreamOpen { token }).unwrap()).unwrap();
            stream
        };
        let started = match stdio {
            GuestStdio::Pipes { stdin, stdout, stderr } => {
                Process { id: process, stdin: stdin.map(open), stdout: open(stdout.unwrap()), stderr: stderr.map(open) }
            }
            GuestStdio::Terminal { token, size } => {
                assert_eq!(size, TerminalSize { rows: 24, columns: 80 });
                Process { id: process, stdin: None, stdout: open(token), stderr: None }
            }
        };
        self.say(&GuestMessage::Spawned { container, process, pid: 7, at: 20 });
        started
    }

    fn run(machine: &FakeMachine) -> (Self, Process) {
        let mut guest = Self::boot(machine);
        guest.create();
        let process = guest.spawn();
        (guest, process)
    }

    fn exit(&mut self, process: Process, status: ExitStatus) {
        let id = process.id;
        drop(process);
        let container = ContainerId(ID.into());
        self.say(&GuestMessage::Exited { container, process: id, status, oom_killed: false });
    }

    /// Answers a power-off as guest init does.
    fn power_off(mut self) {
        while let Some(message) = self.hear() {
            if message == HostMessage::PowerOff {
                self.say(&GuestMessage::PoweringOff);
                self.machine.end(MachineEndReason::Reset);
                return;
            }
        }
        panic!("no power-off");
    }
}

const ID: &str = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";

/// A command with its pipes, and a keeper in a thread.
struct Command {
    _directory: tempfile::TempDir,
    home: Home,
    machine: FakeMachine,
    machines: Vec<FakeMachine>,
    connection: UnixStream,
    receiver: Receiver,
    stdin: Option<PipeWriter>,
    stdout: PipeReader,
    stderr: PipeReader,
    keeper: JoinHandle<Ending>,
}

fn launch(home: Home, request: &RunRequest) -> Launch {
    let image = ImageDefaults { cmd: vec!["sh".into()], ..ImageDefaults::default() };
    let host = Host {
        cpus: 2,
        memory: 8 << 30,
        wall_clock: Duration::ZERO,
        resolv_conf: String::new(),
        upstream_resolv_conf: None,
    };
    let files =
        Files { kernel: "/k".into(), initrd: "/i".into(), root: Vec::new(), scratch: "/s".into(), volumes: Vec::new() };
    let resolved = plan::resolve(ID, request, &image, &host).unwrap();
    Launch {
        id: ID.into(),
        home,
        auto_remove: request.auto_remove,
        plan: plan::plan(request, &resolved, files, &host).unwrap(),
        accelerator: monitor::Accelerator::Emulated,
        vmm: "/v".into(),
        emulator: None,
        file_daemon: None,
        terminal_size: TerminalSize { rows: 24, columns: 80 },
        detach: false,
        restart: RestartPolicy::No,
        stop: StopSettings::default(),
        health: None,
        log: LogSettings::default(),
        timings: Timings { begun: timings::now(), ..Timings::default() },
    }
}

fn records(home: &Home) -> State {
    for path in [&home.data, &home.run] {
        home::make_private(path).unwrap();
    }
    let state = State::open(&home.database()).unwrap();
    let digest = format!("sha256:{}", "1".repeat(64));
    let root = RootRecord { digest: digest.clone(), length: 4096 };
    let image = ImageRecord {
        id: digest.clone(),
        names: Vec::new(),
        digests: Vec::new(),
        manifest_digest: None,
        layers: Vec::new(),
        platform: "linux/amd64".into(),
        created: None,
        loaded_at: 0,
        size: 0,
        root,
    };
    state.put_image(&image).unwrap();
    let mut record = ContainerRecord::new(ID.into(), "it".into(), digest, "busybox".into(), 1);
    record.keeper = Some(crate::process::current().unwrap());
    state.insert_container(&record).unwrap();
    state
}

impl Command {
    fn run(request: &RunRequest) -> Self {
        Self::launch(request, 1, |_| {})
    }

    /// With so many machines, one after the other, and a launch that is changed.
    fn launch(request: &RunRequest, machines: usize, change: impl FnOnce(&mut Launch)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = Home { data: directory.path().join("data"), run: directory.path().join("run") };
        drop(records(&home));
        let machines: Vec<_> = (0..machines).map(|_| FakeMachine::new()).collect();
        let (connection, theirs) = UnixStream::pair().unwrap();
        let (their_stdin, stdin) = std::io::pipe().unwrap();
        let (stdout, their_stdout) = std::io::pipe().unwrap();
        let (stderr, their_stderr) = std::io::pipe().unwrap();
        let streams = AttachedStreams { stdin: request.interactive, stdout: true, stderr: true };
        let mut ends: Vec<OwnedFd> = vec![their_stdout.into(), their_stderr.into()];
        if request.interactive {
            ends.insert(0, their_stdin.into());
        }
        let descriptors: Vec<_> = ends.iter().map(AsFd::as_fd).collect();
        send(&connection, &ToKeeper::Attach(streams), &descriptors).unwrap();
        let mut clients = Clients::with_first(Receiver::new(theirs)).unwrap();
        home::make_private(&home.run_container(ID)).unwrap();
        clients.listen(&home.control_socket(ID)).unwrap();
        let mut launch = launch(home.clone(), request);
        change(&mut launch);
        let mut hulls = machines.clone().into_iter();
        let keeper = std::thread::spawn(move || {
            let timeouts = Timeouts { hello: Duration::from_secs(1), ..Timeouts::default() };
            let launcher =
                || hulls.next().ok_or_else(|| Error::Host("no machine is left", std::io::ErrorKind::Other.into()));
            let (ending, clients) = Keeper::new(&launch, launcher, timeouts, clients).run();
            Records::new(&launch).ended(&ending, false).unwrap();
            clients.farewell(&FromKeeper::Ended(Box::new(ending.clone())));
            ending
        });
        let receiver = Receiver::new(connection.try_clone().unwrap());
        let stdin = Some(stdin);
        let machine = machines[0].clone();
        Self { _directory: directory, home, machine, machines, connection, receiver, stdin, stdout, stderr, keeper }
    }

    /// Another command's connection.
    fn other(&self) -> Connection {
        Connection::open(ID, &self.home.control_socket(ID)).unwrap()
    }

    fn record(&self) -> ContainerRecord {
        State::open(&self.home.database()).unwrap().container(ID).unwrap()
    }

    /// Waits until the record is as it should be.
    fn await_record(&self, is_so: impl Fn(&ContainerRecord) -> bool) -> ContainerRecord {
        let begun = Instant::now();
        loop {
            let record = self.record();
            if is_so(&record) {
                return record;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{record:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn say(&self, message: &ToKeeper) {
        send(&self.connection, message, &[]).unwrap();
    }

    fn expect(&mut self, message: &FromKeeper) {
        assert_eq!(self.receiver.receive::<FromKeeper>().unwrap().as_ref(), Some(message));
    }

    fn output(&mut self) -> (String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        self.stdout.read_to_string(&mut out).unwrap();
        self.stderr.read_to_string(&mut err).unwrap();
        (out, err)
    }

    fn end(self) -> Ending {
        self.keeper.join().unwrap()
    }
}

fn request() -> RunRequest {
    RunRequest { image: "busybox".into(), interactive: true, ..RunRequest::default() }
}

#[test]
fn from_hello_to_power_off() {
    let mut command = Command::run(&request());
    let (mut guest, mut process) = Guest::run(&command.machine);
    command.expect(&FromKeeper::Attached);
    command.expect(&FromKeeper::Started);
    let record = State::open(&command.home.database()).unwrap().container(ID).unwrap();
    assert_eq!(record.state, ContainerState::Running);
    command.stdin.take().unwrap().write_all(b"to the process").unwrap();
    let mut input = String::new();
    process.stdin.as_mut().unwrap().read_to_string(&mut input).unwrap();
    assert_eq!(input, "to the process");
    process.stdout.write_all(b"out").unwrap();
    process.stderr.as_mut().unwrap().write_all(b"err").unwrap();
    guest.exit(process, ExitStatus::Code(42));
    guest.power_off();
    assert_eq!(command.output(), ("out".into(), "err".into()));
    let ending = command.end();
    assert_eq!((ending.reason, ending.exit_code), (Reason::Exited, 42));
    let timings = ending.timings;
    let moments = [timings.init, timings.created, timings.spawned, timings.first_byte, timings.exited, timings.ended];
    assert!(moments.is_sorted() && moments[0].is_some(), "{timings:?}");
}

#[test]
fn container_that_is_thrown_away_is_not_synced() {
    let command = Command::run(&RunRequest { auto_remove: true, ..request() });
    let (mut guest, process) = Guest::run(&command.machine);
    guest.exit(process, ExitStatus::Signal(11));
    assert_eq!(guest.hear(), None);
    let ending = command.end();
    assert_eq!((ending.reason, ending.exit_code), (Reason::Signalled, 139));
}

#[test]
fn signals_and_sizes_reach_the_process() {
    let mut command = Command::run(&RunRequest { tty: true, auto_remove: true, ..request() });
    let (mut guest, process) = Guest::run(&command.machine);
    command.expect(&FromKeeper::Attached);
    command.expect(&FromKeeper::Started);
    command.say(&ToKeeper::Signal(15));
    assert!(matches!(guest.hear(), Some(HostMessage::Signal { signal: 15, .. })));
    let size = TerminalSize { rows: 5, columns: 6 };
    command.say(&ToKeeper::Resize(size));
    assert!(matches!(guest.hear(), Some(HostMessage::Resize { size: s, .. }) if s == size));
    guest.exit(process, ExitStatus::Code(0));
    assert_eq!(command.end().exit_code, 0);
}

#[test]
fn output_that_was_sent_before_the_exit_arrives() {
    let mut command = Command::run(&RunRequest { auto_remove: true, ..request() });
    let (mut guest, mut process) = Guest::run(&command.machine);
    let text = "x".repeat(100_000);
    process.stdout.write_all(text.as_bytes()).unwrap();
    guest.exit(process, ExitStatus::Code(0));
    assert!(command.output().0 == text);
    assert_eq!(command.end().exit_code, 0);
}

#[test]
fn command_that_dies_leaves_the_container_alone() {
    let command = Command::run(&request());
    let (mut guest, mut process) = Guest::run(&command.machine);
    let Command { connection, receiver, stdin, stdout, stderr, keeper, _directory, .. } = command;
    drop((connection, receiver, stdin, stdout, stderr));
    process.stdout.write_all(&vec![b'x'; 1 << 20]).unwrap();
    guest.exit(process, ExitStatus::Code(3));
    guest.power_off();
    assert_eq!(keeper.join().unwrap().exit_code, 3);
}

#[test]
fn reader_that_goes_away_is_told_to_the_process() {
    let mut command = Command::run(&RunRequest { auto_remove: true, ..request() });
    let (mut guest, mut process) = Guest::run(&command.machine);
    command.expect(&FromKeeper::Attached);
    command.expect(&FromKeeper::Started);
    command.say(&ToKeeper::CloseOutput(OutputStream::Stdout));
    let failed = std::iter::repeat_with(|| process.stdout.write_all(b"y\n")).find(Result::is_err).unwrap();
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    assert!(matches!(failed.unwrap_err().kind(), BrokenPipe | ConnectionReset));
    guest.exit(process, ExitStatus::Signal(13));
    assert_eq!(command.end().exit_code, 141);
}

#[test]
fn spawn_that_fails() {
    let command = Command::run(&request());
    let mut guest = Guest::boot(&command.machine);
    guest.create();
    let Some(HostMessage::Spawn { container, process, .. }) = guest.hear() else { panic!("no spawn") };
    let error = protocol::SpawnError::NotFound("no-such-command: not found".into());
    guest.say(&GuestMessage::SpawnFailed { container, process, error });
    let ending = command.end();
    assert_eq!((ending.reason, ending.exit_code), (Reason::SpawnFailed, 127));
    assert!(ending.error.unwrap().contains("no-such-command"));
}

#[test]
fn set_up_that_fails() {
    let command = Command::run(&request());
    let mut guest = Guest::boot(&command.machine);
    let Some(HostMessage::Create { container, .. }) = guest.hear() else { panic!("no create") };
    guest.say(&GuestMessage::CreateFailed { container, error: "mount /x".into() });
    let ending = command.end();
    assert_eq!((ending.reason, ending.exit_code), (Reason::SetupFailed, 125));
}

#[test]
fn machine_that_dies_while_the_process_runs() {
    for (reason, expected, code) in [
        (MachineEndReason::KilledBySignal(9), Reason::MachineKilled, 255),
        (MachineEndReason::GuestPanic { message: "sysrq".into() }, Reason::GuestPanic, 134),
        (MachineEndReason::Internal("ioctl".into()), Reason::MachineError, 125),
    ] {
        let mut command = Command::run(&request());
        let (guest, mut process) = Guest::run(&command.machine);
        command.expect(&FromKeeper::Attached);
        command.expect(&FromKeeper::Started);
        process.stdout.write_all(b"before").unwrap();
        command.machine.end(reason);
        drop((guest, process));
        assert_eq!(command.output().0, "before");
        let ending = command.end();
        assert_eq!((ending.reason, ending.exit_code), (expected, code));
    }
}

#[test]
fn machine_that_never_boots() {
    let command = Command::run(&request());
    command.machine.end(MachineEndReason::SetUp("vmlinux is no kernel".into()));
    let ending = command.end();
    assert_eq!((ending.reason, ending.exit_code), (Reason::BootFailed, 125));
    assert!(ending.error.unwrap().contains("vmlinux"));
    assert_eq!(ending.kernel_log.as_deref(), Some("[    0.5] the last line"));
}

#[test]
fn guest_that_never_says_hello() {
    let command = Command::run(&request());
    let ending = command.end();
    assert_eq!((ending.reason, ending.exit_code), (Reason::BootFailed, 125));
    assert_eq!(ending.kernel_log.as_deref(), Some("[    0.4] still booting"));
}

#[test]
fn guest_that_talks_nonsense() {
    let command = Command::run(&request());
    let (mut guest, process) = Guest::run(&command.machine);
    guest.control.write_all(&[0xff; 64]).unwrap();
    drop(process);
    let ending = command.end();
    assert_eq!((ending.reason, ending.exit_code), (Reason::GuestError, 125));
}

#[test]
fn guest_that_gives_up() {
    let mut command = Command::run(&request());
    let (mut guest, process) = Guest::run(&command.machine);
    command.expect(&FromKeeper::Attached);
    command.expect(&FromKeeper::Started);
    guest.say(&GuestMessage::Fatal { error: "out of descriptors".into() });
    command.machine.end(MachineEndReason::Reset);
    drop((guest, process));
    let ending = command.end();
    assert_eq!(ending.reason, Reason::GuestError);
    assert!(ending.error.unwrap().contains("out of descriptors"));
}

#[test]
fn signal_before_the_process_runs_ends_the_start() {
    let command = Command::run(&request());
    command.say(&ToKeeper::Signal(28));
    command.say(&ToKeeper::Signal(2));
    let ending = command.end();
    assert_eq!((ending.reason, ending.exit_code), (Reason::Interrupted, 130));
}

#[test]
fn kill_ends_everything_at_once_even_with_a_stuck_reader() {
    let command = Command::run(&request());
    let (mut guest, mut process) = Guest::run(&command.machine);
    let stuck = std::thread::spawn(move || {
        // Nobody reads the command's end of standard output.
        let _ = process.stdout.write_all(&vec![b'x'; 8 << 20]);
        process
    });
    std::thread::sleep(Duration::from_millis(50));
    command.say(&ToKeeper::Kill);
    let Command { keeper, machine, _directory, .. } = command;
    let ending = keeper.join().unwrap();
    assert_eq!((ending.reason, ending.exit_code), (Reason::Signalled, 137));
    assert!(machine.wait(Instant::now()).is_some());
    assert_eq!(guest.hear(), None);
    drop(stuck);
}

#[test]
fn exit_is_not_told_before_a_slow_reader_has_everything() {
    let mut command = Command::run(&RunRequest { auto_remove: true, ..request() });
    let (mut guest, mut process) = Guest::run(&command.machine);
    let writer = std::thread::spawn(move || {
        process.stdout.write_all(&vec![b'x'; 2 << 20]).unwrap();
        guest.exit(process, ExitStatus::Code(0));
        guest
    });
    std::thread::sleep(Duration::from_millis(200));
    assert!(!command.keeper.is_finished());
    assert_eq!(command.output().0.len(), 2 << 20);
    assert_eq!(command.end().exit_code, 0);
    drop(writer.join().unwrap());
}

mod life;
