//! Guests that break the protocol, over real sockets.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use guest::{Awaited, Event, GuestError, MAX_PENDING, RequestError, Session, StdioRequest, Streams, Timeouts};
use protocol::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const QUICK: Duration = Duration::from_millis(30);
const PIPES: StdioRequest = StdioRequest::Pipes { stdin: true, stdout: true, stderr: true };

/// A session and the guest's end of its control connection.
struct Pair {
    session: Session,
    control: UnixStream,
    received: FrameBuffer,
}

fn id() -> ContainerId {
    ContainerId("c".to_owned())
}

fn hello() -> GuestMessage {
    GuestMessage::Hello(Hello { version: VERSION, kernel_release: "6.12".to_owned(), init_started: 1, sent: 2 })
}

fn created() -> GuestMessage {
    GuestMessage::Created { container: id() }
}

fn spawned(process: u32) -> GuestMessage {
    GuestMessage::Spawned { container: id(), process: ProcessId(process), pid: 7, at: 9 }
}

fn exited(process: u32) -> GuestMessage {
    GuestMessage::Exited {
        container: id(),
        process: ProcessId(process),
        status: ExitStatus::Code(3),
        oom_killed: false,
    }
}

fn answer(request: u32, answer: Answer) -> GuestMessage {
    GuestMessage::Answer { container: id(), request: RequestId(request), answer }
}

fn config() -> ContainerConfig {
    ContainerConfig {
        root_disk: "root".to_owned(),
        scratch_disk: "scratch".to_owned(),
        read_only: false,
        hostname: String::new(),
        hosts_file: String::new(),
        resolv_conf: String::new(),
        privileged: false,
        tmpfs: vec![],
        volumes: vec![],
        binds: vec![],
        shm_size: 0,
        sysctls: vec![],
        limits: Limits::default(),
        wall_clock: (0, 0),
    }
}

fn spec() -> ProcessSpec {
    ProcessSpec {
        argv: vec![b"true".to_vec()],
        env: vec![],
        cwd: String::new(),
        user: String::new(),
        additional_groups: vec![],
        capabilities: Capabilities::default(),
        no_new_privileges: false,
        ..ProcessSpec::default()
    }
}

impl Pair {
    fn new(timeouts: Timeouts) -> Self {
        let mut session = Session::new(timeouts).unwrap();
        let (host, control) = UnixStream::pair().unwrap();
        session.offer(CONTROL_PORT, host).unwrap();
        Self { session, control, received: FrameBuffer::new() }
    }

    /// A session whose guest has said hello.
    fn ready() -> Self {
        let mut pair = Self::new(Timeouts::default());
        pair.say(&hello());
        assert!(matches!(pair.events().unwrap().as_slice(), [Event::Hello(_)]));
        pair
    }

    /// A session with a container.
    fn with_container() -> Self {
        let mut pair = Self::ready();
        pair.session.create(id(), config()).unwrap();
        assert!(matches!(pair.hear(), HostMessage::Create { .. }));
        pair.say(&created());
        assert!(matches!(pair.events().unwrap().as_slice(), [Event::Created { .. }]));
        pair
    }

    /// A session with a process that is being started, and its tokens.
    fn with_process() -> (Self, ProcessId, [StreamToken; 3]) {
        let mut pair = Self::with_container();
        let process = pair.session.spawn(&id(), spec(), PIPES).unwrap();
        let HostMessage::Spawn { stdio, .. } = pair.hear() else { panic!() };
        let Stdio::Pipes { stdin: Some(stdin), stdout: Some(stdout), stderr: Some(stderr) } = stdio else { panic!() };
        (pair, process, [stdin, stdout, stderr])
    }

    fn say(&mut self, message: &GuestMessage) {
        self.control.write_all(&encode_frame(message).unwrap()).unwrap();
    }

    fn hear(&mut self) -> HostMessage {
        let mut chunk = [0; 4096];
        loop {
            if let Some(message) = self.received.take_message().unwrap() {
                return message;
            }
            let length = self.control.read(&mut chunk).unwrap();
            self.received.extend(&chunk[..length]);
        }
    }

    fn events(&mut self) -> Result<Vec<Event>, GuestError> {
        self.session.wait(Instant::now() + QUICK)
    }

    /// The error that the session ends with.
    fn error(&mut self) -> GuestError {
        loop {
            match self.session.progress() {
                Err(error) => {
                    assert!(matches!(self.session.progress(), Err(GuestError::Ended)));
                    assert!(matches!(self.session.power_off(), Err(RequestError::Ended)));
                    return error;
                }
                Ok(events) => assert!(!events.is_empty() || self.readable(), "no error"),
            }
        }
    }

    fn readable(&self) -> bool {
        let pause = Timespec { tv_sec: 1, tv_nsec: 0 };
        poll(&mut [PollFd::from_borrowed_fd(self.session.as_fd(), PollFlags::IN)], Some(&pause)).unwrap() > 0
    }

    fn connect(&mut self, token: StreamToken) -> UnixStream {
        let (host, mut guest) = UnixStream::pair().unwrap();
        guest.write_all(&StreamOpen { token }.to_frame()).unwrap();
        self.session.offer(STREAM_PORT, host).unwrap();
        guest
    }
}

fn is_closed(stream: &mut UnixStream) -> bool {
    stream.set_read_timeout(Some(QUICK)).unwrap();
    match stream.read(&mut [0]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn is_out_of_order(error: &GuestError) -> bool {
    matches!(error, GuestError::OutOfOrder { .. })
}

#[test]
fn a_whole_life() {
    let (mut pair, process, [stdin, stdout, stderr]) = Pair::with_process();
    let mut guests = [pair.connect(stderr), pair.connect(stdin), pair.connect(stdout)];
    guests[0].write_all(b"raw bytes right behind the token").unwrap();
    pair.say(&spawned(process.0));
    let events = pair.events().unwrap();
    let [Event::Spawned { pid: 7, at: 9, streams: Streams::Pipes { stderr: Some(stderr), .. }, .. }] =
        events.as_slice()
    else {
        panic!("{events:?}")
    };
    let mut bytes = [0; 32];
    (&*stderr).read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"raw bytes right behind the token");
    pair.session.signal(process, 15).unwrap();
    pair.session.resize(process, TerminalSize { rows: 1, columns: 2 }).unwrap();
    assert!(matches!(pair.hear(), HostMessage::Signal { signal: 15, .. }));
    assert!(matches!(pair.hear(), HostMessage::Resize { .. }));
    pair.say(&exited(process.0));
    assert!(matches!(pair.events().unwrap().as_slice(), [Event::Exited { status: ExitStatus::Code(3), .. }]));
    assert!(matches!(pair.session.signal(process, 15), Err(RequestError::UnknownProcess(_))));
    pair.session.power_off().unwrap();
    assert!(matches!(pair.hear(), HostMessage::PowerOff));
    pair.say(&GuestMessage::PoweringOff);
    assert!(matches!(pair.events().unwrap().as_slice(), [Event::PoweringOff, Event::Ended]));
    // The host lets go at once, so that the guest need not wait for its farewell to be seen.
    assert!(is_closed(&mut pair.control));
    assert!(matches!(pair.session.progress(), Err(GuestError::Ended)));
}

#[test]
fn an_exit_waits_for_the_streams() {
    let (mut pair, process, [stdin, stdout, stderr]) = Pair::with_process();
    let _guests = [pair.connect(stdin), pair.connect(stdout)];
    pair.say(&spawned(process.0));
    pair.say(&exited(process.0));
    assert!(pair.events().unwrap().is_empty());
    let _last = pair.connect(stderr);
    let events = pair.events().unwrap();
    assert!(matches!(events.as_slice(), [Event::Spawned { .. }, Event::Exited { .. }]), "{events:?}");
}

/// Every message that may not come now ends the session with its name.
#[test]
fn out_of_order() {
    let failed =
        GuestMessage::SpawnFailed { container: id(), process: ProcessId(1), error: SpawnError::Other(String::new()) };
    let create_failed = GuestMessage::CreateFailed { container: id(), error: String::new() };
    for message in [
        created(),
        create_failed.clone(),
        spawned(1),
        failed.clone(),
        exited(1),
        GuestMessage::PoweringOff,
        answer(1, Answer::Frozen),
    ] {
        let mut pair = Pair::new(Timeouts::default());
        pair.say(&message);
        assert!(is_out_of_order(&pair.error()), "before hello: {message:?}");
    }
    for message in [
        hello(),
        created(),
        create_failed.clone(),
        spawned(1),
        failed.clone(),
        exited(1),
        GuestMessage::PoweringOff,
        answer(1, Answer::Frozen),
    ] {
        let mut pair = Pair::ready();
        pair.say(&message);
        assert!(is_out_of_order(&pair.error()), "ready: {message:?}");
        let mut pair = Pair::with_container();
        pair.say(&message);
        assert!(is_out_of_order(&pair.error()), "with a container: {message:?}");
    }
    let elsewhere =
        GuestMessage::Spawned { container: ContainerId("other".to_owned()), process: ProcessId(1), pid: 1, at: 1 };
    let sequences: [&[GuestMessage]; 6] = [
        &[exited(1)],
        &[elsewhere],
        &[spawned(2)],
        &[spawned(1), spawned(1)],
        &[spawned(1), exited(1), exited(1)],
        &[failed.clone(), exited(1)],
    ];
    for messages in sequences {
        let (mut pair, _, _) = Pair::with_process();
        messages.iter().for_each(|message| pair.say(message));
        assert!(is_out_of_order(&pair.error()), "{messages:?}");
    }
    let (mut pair, process, tokens) = Pair::with_process();
    let _guests = tokens.map(|token| pair.connect(token));
    pair.say(&spawned(process.0));
    pair.say(&exited(process.0));
    pair.say(&exited(process.0));
    // What was true is reported before the error is.
    let events = pair.events().unwrap();
    assert!(matches!(events.as_slice(), [Event::Spawned { .. }, Event::Exited { .. }]), "{events:?}");
    assert!(is_out_of_order(&pair.error()));
}

#[test]
fn bad_frames() {
    for bytes in [&[0, 0, 0, 0][..], &[255, 255, 255, 255], &[1, 0, 0, 0, 200], &[2, 0, 0, 0, 7, 7], &[0, 0, 2, 0]] {
        let mut pair = Pair::ready();
        pair.control.write_all(bytes).unwrap();
        assert!(matches!(pair.error(), GuestError::Frame(_)), "{bytes:?}");
    }
    // A frame that the host could be sent is too long for a guest to send.
    let mut pair = Pair::ready();
    let length = u32::try_from(MAX_GUEST_FRAME + 1).unwrap();
    pair.control.write_all(&length.to_le_bytes()).unwrap();
    assert!(matches!(pair.error(), GuestError::Frame(FrameError::TooLarge { .. })));
}

#[test]
fn another_version() {
    let mut pair = Pair::new(Timeouts::default());
    let message = Hello { version: VERSION + 1, kernel_release: String::new(), init_started: 0, sent: 0 };
    pair.say(&GuestMessage::Hello(message));
    assert!(matches!(pair.error(), GuestError::Version { host: VERSION, .. }));
}

/// A conversation that is cut at every byte ends with a disconnection, in the middle of a frame or between two.
#[test]
fn cut_at_every_byte() {
    let mut bytes = encode_frame(&hello()).unwrap();
    let whole = bytes.len();
    bytes.extend(encode_frame(&GuestMessage::Fatal { error: "over".to_owned() }).unwrap());
    for cut in 0..bytes.len() {
        let mut pair = Pair::new(Timeouts::default());
        pair.control.write_all(&bytes[..cut]).unwrap();
        pair.control.shutdown(std::net::Shutdown::Write).unwrap();
        let expected = cut != 0 && cut != whole;
        assert!(matches!(pair.error(), GuestError::Disconnected { partial } if partial == expected), "{cut}");
    }
}

/// The same conversation, byte by byte, is the same.
#[test]
fn one_byte_at_a_time() {
    let mut pair = Pair::new(Timeouts::default());
    let mut events = Vec::new();
    for message in [hello(), GuestMessage::Fatal { error: "over\u{1b}[31m\n".to_owned() }] {
        for byte in encode_frame(&message).unwrap() {
            pair.control.write_all(&[byte]).unwrap();
            events.extend(pair.session.progress().unwrap());
        }
    }
    let [Event::Hello(_), Event::Fatal { error }, Event::Ended] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(error, "over\u{fffd}[31m\u{fffd}");
}

#[test]
fn silence() {
    let quick = Timeouts { hello: QUICK, create: QUICK, copy_up: QUICK, spawn: QUICK, answer: QUICK, power_off: QUICK };
    let late = |mut pair: Pair| {
        let error = pair.session.wait(Instant::now() + Duration::from_secs(5)).unwrap_err();
        let GuestError::Deadline(awaited) = error else { panic!("{error}") };
        awaited
    };
    // Without any connection, too.
    let mut session = Session::new(quick).unwrap();
    let error = session.wait(Instant::now() + Duration::from_secs(5)).unwrap_err();
    assert!(matches!(error, GuestError::Deadline(Awaited::Hello)));
    assert_eq!(late(Pair::new(quick)), Awaited::Hello);
    let ready = || {
        let mut pair = Pair::new(quick);
        pair.say(&hello());
        pair.session.wait(Instant::now() + Duration::from_secs(5)).unwrap();
        pair
    };
    let mut pair = ready();
    pair.session.create(id(), config()).unwrap();
    assert_eq!(late(pair), Awaited::Created(id()));
    let spawning = || {
        let mut pair = ready();
        pair.session.create(id(), config()).unwrap();
        pair.say(&created());
        pair.session.wait(Instant::now() + Duration::from_secs(5)).unwrap();
        pair.session.spawn(&id(), spec(), PIPES).unwrap();
        pair
    };
    assert_eq!(late(spawning()), Awaited::Spawned(ProcessId(1)));
    let mut pair = spawning();
    pair.say(&spawned(1));
    assert_eq!(late(pair), Awaited::Streams(ProcessId(1)));
    let mut pair = ready();
    pair.session.power_off().unwrap();
    assert_eq!(late(pair), Awaited::PoweringOff);
}

#[test]
fn stray_connections_are_closed() {
    // Before anything is expected, on ports that nobody has, and a second control connection.
    let mut pair = Pair::ready();
    for port in [0, CONTROL_PORT, STREAM_PORT, 4000] {
        let (host, mut guest) = UnixStream::pair().unwrap();
        pair.session.offer(port, host).unwrap();
        assert!(is_closed(&mut guest), "{port}");
    }
    let (mut pair, process, tokens) = Pair::with_process();
    // Guesses, also a right token in a wrong frame.
    let mut wrong = tokens[0];
    wrong.0[15] ^= 1;
    let mut guess = pair.connect(wrong);
    let (host, mut odd) = UnixStream::pair().unwrap();
    odd.write_all(&[17, 0, 0, 0]).unwrap();
    odd.write_all(&tokens[0].0).unwrap();
    pair.session.offer(STREAM_PORT, host).unwrap();
    pair.session.progress().unwrap();
    assert!(is_closed(&mut guess) && is_closed(&mut odd));
    // A token works once.
    let guests = tokens.map(|token| pair.connect(token));
    pair.session.progress().unwrap();
    let mut again = pair.connect(tokens[0]);
    pair.session.progress().unwrap();
    assert!(is_closed(&mut again));
    pair.say(&spawned(process.0));
    assert!(matches!(pair.events().unwrap().as_slice(), [Event::Spawned { .. }]));
    drop(guests);
}

#[test]
fn undecided_connections_are_bounded() {
    let (mut pair, process, tokens) = Pair::with_process();
    // They are decided where they wait, so that a burst of good ones loses none.
    let guests = tokens.map(|token| pair.connect(token));
    let mut waiting: Vec<UnixStream> = Vec::new();
    for _ in 0..MAX_PENDING + 10 {
        let (host, guest) = UnixStream::pair().unwrap();
        pair.session.offer(STREAM_PORT, host).unwrap();
        waiting.push(guest);
    }
    pair.say(&spawned(process.0));
    assert!(matches!(pair.events().unwrap().as_slice(), [Event::Spawned { .. }]));
    // All streams are there: whatever comes now has no purpose.
    let (host, mut late) = UnixStream::pair().unwrap();
    pair.session.offer(STREAM_PORT, host).unwrap();
    assert!(is_closed(&mut late));
    drop(guests);
}

/// The oldest of too many gives way; a token may come byte by byte.
#[test]
fn a_flood_of_connections() {
    let (mut pair, _, [stdin, ..]) = Pair::with_process();
    let mut waiting: Vec<UnixStream> = Vec::new();
    for _ in 0..MAX_PENDING + 10 {
        let (host, guest) = UnixStream::pair().unwrap();
        pair.session.offer(STREAM_PORT, host).unwrap();
        waiting.push(guest);
    }
    pair.session.progress().unwrap();
    assert!(waiting[..10].iter_mut().all(is_closed));
    assert!(!is_closed(&mut waiting[10]) && !is_closed(&mut waiting[MAX_PENDING + 9]));
    for byte in (StreamOpen { token: stdin }).to_frame() {
        waiting[MAX_PENDING].write_all(&[byte]).unwrap();
        pair.session.progress().unwrap();
    }
    assert!(!is_closed(&mut waiting[MAX_PENDING]));
}

/// What was decided to make room is told without anything that makes the session readable.
#[test]
fn early_events_have_a_deadline() {
    let (mut pair, process, tokens) = Pair::with_process();
    pair.say(&spawned(process.0));
    pair.session.progress().unwrap();
    let _guests = tokens.map(|token| pair.connect(token));
    // Another process expects streams, so that they are taken.
    let _other = pair.session.spawn(&id(), spec(), PIPES).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..MAX_PENDING {
        let (host, guest) = UnixStream::pair().unwrap();
        pair.session.offer(STREAM_PORT, host).unwrap();
        waiting.push(guest);
    }
    assert!(pair.session.deadline().is_some_and(|deadline| deadline <= Instant::now()));
    assert!(matches!(pair.session.progress().unwrap().as_slice(), [Event::Spawned { .. }]));
}

#[test]
fn requests_out_of_order_are_refused() {
    let mut pair = Pair::new(Timeouts::default());
    assert!(matches!(pair.session.create(id(), config()), Err(RequestError::NotReady)));
    let mut pair = Pair::ready();
    assert!(matches!(pair.session.spawn(&id(), spec(), PIPES), Err(RequestError::UnknownContainer(_))));
    pair.session.create(id(), config()).unwrap();
    assert!(matches!(pair.session.create(id(), config()), Err(RequestError::DuplicateContainer(_))));
    assert!(matches!(pair.session.spawn(&id(), spec(), PIPES), Err(RequestError::UnknownContainer(_))));
    let (mut pair, process, _) = Pair::with_process();
    for signal in [0, 65, 255] {
        assert!(matches!(pair.session.signal(process, signal), Err(RequestError::BadSignal(_))));
    }
    let huge = ProcessSpec { argv: vec![vec![0; MAX_FRAME]], ..spec() };
    assert!(matches!(pair.session.spawn(&id(), huge, PIPES), Err(RequestError::TooLarge(_))));
    pair.session.power_off().unwrap();
    assert!(matches!(pair.session.power_off(), Err(RequestError::Ended)));
}

/// A guest that does not read: what waits is bounded, and nothing of the session stops.
#[test]
fn a_guest_that_does_not_read() {
    let mut pair = Pair::with_container();
    let large = || ProcessSpec { argv: vec![vec![b'x'; 1 << 20]], ..spec() };
    let refused = (0..64).find(|_| matches!(pair.session.spawn(&id(), large(), PIPES), Err(RequestError::QueueFull)));
    assert!(refused.is_some());
    assert!(pair.events().unwrap().is_empty());
    pair.say(&GuestMessage::Fatal { error: "busy".to_owned() });
    assert!(matches!(pair.events().unwrap().as_slice(), [Event::Fatal { .. }, Event::Ended]));
}

#[test]
fn failures_free_their_names() {
    let mut pair = Pair::ready();
    pair.session.create(id(), config()).unwrap();
    pair.say(&GuestMessage::CreateFailed { container: id(), error: "x".repeat(10_000) });
    let events = pair.events().unwrap();
    assert!(matches!(events.as_slice(), [Event::CreateFailed { error, .. }] if error.len() == guest::MAX_TEXT));
    pair.session.create(id(), config()).unwrap();
    let (mut pair, process, [stdin, ..]) = Pair::with_process();
    let mut connected = pair.connect(stdin);
    pair.session.progress().unwrap();
    let error = SpawnError::NotFound("no\u{7}".to_owned());
    pair.say(&GuestMessage::SpawnFailed { container: id(), process, error });
    let events = pair.events().unwrap();
    let [Event::SpawnFailed { error: SpawnError::NotFound(text), .. }] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(text, "no\u{fffd}");
    assert!(is_closed(&mut connected));
}
