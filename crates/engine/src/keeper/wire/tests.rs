//! Connections, and the bytes of every message, which stay as they are: see "The promise" in the [parent](super).

use std::{
    fmt::Write as _,
    io::{Read, Write},
    time::Duration,
};

use protocol::{Capabilities, ExitStatus, Limits, ProcessSpec, Rlimit, Task, TerminalSize};

use super::*;
use crate::{ending::Ending, keeper::policy::RestartPolicy, timings::Timings};

fn exec() -> Exec {
    let process = ProcessSpec {
        task: Task::Program,
        argv: vec![b"sh".to_vec(), b"-c".to_vec()],
        env: vec![b"A=b".to_vec()],
        cwd: "/w".into(),
        user: "1:2".into(),
        additional_groups: vec!["3".into()],
        capabilities: Capabilities { bounding: 0x1ff },
        no_new_privileges: true,
        rlimits: vec![Rlimit { resource: 7, soft: 1024, hard: u64::MAX }],
        oom_score_adj: -5,
        seccomp: Some(vec![6, 0, 0, 0, 0, 0, 0xff, 0x7f]),
        init: true,
    };
    let unpack = Task::Unpack { directory: "/d".into(), no_overwrite_dir_non_dir: true };
    let streams = AttachedStreams { stdin: true, stdout: true, stderr: false };
    let size = TerminalSize { rows: 24, columns: 80 };
    let exec = Exec { id: "e1".into(), process, tty: true, streams, size, detach: false };
    assert_ne!(unpack, exec.process.task);
    exec
}

fn requests() -> Vec<ToKeeper> {
    let mut unpack = exec();
    unpack.process.task = Task::Unpack { directory: "/d".into(), no_overwrite_dir_non_dir: true };
    let limits = Limits { memory: Some(1 << 30), cpu_milli: Some(1500), pids: Some(u64::MAX) };
    let policies =
        [RestartPolicy::No, RestartPolicy::OnFailure { max: 3 }, RestartPolicy::Always, RestartPolicy::UnlessStopped];
    let mut requests = vec![
        ToKeeper::Hello { version: VERSION },
        ToKeeper::Attach(AttachedStreams { stdin: true, stdout: false, stderr: true }),
        ToKeeper::Signal(15),
        ToKeeper::Resize(TerminalSize { rows: 24, columns: 80 }),
        ToKeeper::CloseOutput(OutputStream::Stdout),
        ToKeeper::CloseOutput(OutputStream::Stderr),
        ToKeeper::Kill,
        ToKeeper::Wait,
        ToKeeper::Detach,
        ToKeeper::Exec(Box::new(exec())),
        ToKeeper::Exec(Box::new(unpack)),
        ToKeeper::Stop { signal: None, timeout: None },
        ToKeeper::Stop { signal: Some(2), timeout: Some(Duration::from_millis(1500)) },
        ToKeeper::Restart { signal: Some(2), timeout: Some(Duration::MAX) },
        ToKeeper::Pause,
        ToKeeper::Unpause,
        ToKeeper::Freeze,
        ToKeeper::Thaw,
        ToKeeper::Update(Update { limits: Some(limits), restart: None }),
        ToKeeper::Usage,
        ToKeeper::Processes,
    ];
    requests.extend(policies.map(|policy| ToKeeper::Update(Update { limits: None, restart: Some(policy) })));
    requests
}

fn answers() -> Vec<FromKeeper> {
    let timings = Timings { begun: 1, planned: Some(2), ended: Some(300), ..Timings::default() };
    let ending = Ending { timings, ..Ending::of_process(ExitStatus::Signal(9), true) };
    let guest = GuestUsage {
        memory: 1,
        memory_inactive_file: 2,
        memory_limit: 3,
        cpu_ns: 4,
        cpus: 5,
        pids: 6,
        pids_limit: 7,
        block_read: 8,
        block_written: 9,
        net_received: 10,
        net_sent: 11,
    };
    let host = HostUsage { pids: vec![1, 2], rss: 3, pss: 4, private: 5, cpu_ns: 6 };
    let row = ProcessRow {
        pid: 1,
        ppid: 2,
        uid: 3,
        user: Some("u".into()),
        state: 'S',
        cpu_ns: 4,
        rss: 5,
        started_at: -6,
        tty: "pts/0".into(),
        command: b"sh\0".to_vec(),
    };
    vec![
        FromKeeper::Hello { version: VERSION },
        FromKeeper::Attached,
        FromKeeper::Refused("why".into()),
        FromKeeper::Started,
        FromKeeper::Ended(Box::new(ending.clone())),
        FromKeeper::Restarting(Box::new(ending)),
        FromKeeper::ExecStarted,
        FromKeeper::ExecFailed { code: 127, error: "no".into() },
        FromKeeper::ExecEnded { code: 3 },
        FromKeeper::Done,
        FromKeeper::Usage(Box::new(Usage { guest: Some(guest), machine: host.clone(), keeper: host, at: 7 })),
        FromKeeper::Processes(vec![row]),
    ]
}

fn lines<T: Serialize + std::fmt::Debug>(messages: &[T], text: &mut String) {
    for message in messages {
        let name: String = format!("{message:?}").chars().take_while(char::is_ascii_alphanumeric).collect();
        let frame = encode_frame(message).unwrap();
        let bytes = frame.iter().fold(String::new(), |bytes, byte| bytes + &format!("{byte:02x}"));
        writeln!(text, "{name} {bytes}").unwrap();
    }
}

#[test]
fn the_bytes_of_every_message_stay() {
    let mut text = String::new();
    lines(&requests(), &mut text);
    lines(&answers(), &mut text);
    // How containers end: each reason by its number.
    let reasons: Vec<_> = crate::ending::Reason::ALL.iter().map(|reason| (reason, postcard_byte(reason))).collect();
    writeln!(text, "reasons {reasons:?}").unwrap();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/keeper/wire/golden.txt");
    if std::env::var_os("CORACLE_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "a keeper of version {VERSION} would not understand this: make another one\n{text}");
}

fn postcard_byte<T: Serialize>(value: &T) -> u8 {
    *encode_frame(value).unwrap().last().unwrap()
}

#[test]
fn messages_are_what_they_were_when_they_arrive() {
    let (left, right) = UnixStream::pair().unwrap();
    let mut receiver = Receiver::new(right);
    for message in requests() {
        send(&left, &message, &[]).unwrap();
        assert_eq!(receiver.receive().unwrap(), Some(message));
    }
    for message in answers() {
        send(&left, &message, &[]).unwrap();
        assert_eq!(receiver.receive().unwrap(), Some(message));
    }
}

#[test]
fn messages_and_descriptors_arrive_together() {
    let (left, right) = UnixStream::pair().unwrap();
    let (mut reader, writer) = io::pipe().unwrap();
    send(&left, &ToKeeper::Hello { version: 7 }, &[]).unwrap();
    let streams = AttachedStreams { stdout: true, ..AttachedStreams::default() };
    send(&left, &ToKeeper::Attach(streams), &[writer.as_fd()]).unwrap();
    drop(writer);
    let mut receiver = Receiver::new(right);
    assert_eq!(receiver.receive().unwrap(), Some(ToKeeper::Hello { version: 7 }));
    assert_eq!(receiver.receive().unwrap(), Some(ToKeeper::Attach(streams)));
    let mut taken = receiver.take_descriptors(streams.count()).unwrap();
    io::PipeWriter::from(taken.pop_front().unwrap()).write_all(b"through").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
    assert!(matches!(receiver.take_descriptors(1), Err(WireError::Descriptors)));
}

#[test]
fn large_messages_and_bytes_one_by_one() {
    let (left, right) = UnixStream::pair().unwrap();
    let message = FromKeeper::Refused("x".repeat(1 << 20));
    let sent = message.clone();
    let sender = std::thread::spawn(move || send(&left, &sent, &[]).map(|()| left).unwrap());
    let mut receiver = Receiver::new(right);
    assert_eq!(receiver.receive().unwrap(), Some(message));
    let mut left = sender.join().unwrap();
    receiver.stream.set_nonblocking(true).unwrap();
    let frame = encode_frame(&ToKeeper::Signal(9)).unwrap();
    for byte in &frame[..frame.len() - 1] {
        left.write_all(&[*byte]).unwrap();
        assert_eq!(receiver.receive::<ToKeeper>().unwrap(), None);
    }
    left.write_all(&frame[frame.len() - 1..]).unwrap();
    assert_eq!(receiver.receive().unwrap(), Some(ToKeeper::Signal(9)));
    drop(left);
    assert!(matches!(receiver.receive::<ToKeeper>(), Err(WireError::Closed)));
}

#[test]
fn sockets_may_lie_deep() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("d".repeat(100)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    let socket = deep.join("control.sock");
    let listener = with_short_path(&socket, |path| std::os::unix::net::UnixListener::bind(path)).unwrap();
    assert!(socket.exists());
    let mut ours = with_short_path(&socket, |path| UnixStream::connect(path)).unwrap();
    ours.write_all(b"x").unwrap();
    listener.accept().unwrap().0.read_exact(&mut [0]).unwrap();
    assert!(with_short_path(Path::new("/no/such/socket"), |path| UnixStream::connect(path)).is_err());
}

#[test]
fn garbage_is_an_error() {
    let (mut left, right) = UnixStream::pair().unwrap();
    let mut receiver = Receiver::new(right);
    left.write_all(&[0xff; 64]).unwrap();
    assert!(matches!(receiver.receive::<ToKeeper>(), Err(WireError::Frame(_))));
}

#[test]
fn too_many_descriptors_end_the_conversation() {
    let (left, right) = UnixStream::pair().unwrap();
    let (reader, _writer) = io::pipe().unwrap();
    let mut receiver = Receiver::new(right);
    for _ in 0..=MAX_DESCRIPTORS {
        send(&left, &ToKeeper::Wait, &[reader.as_fd()]).unwrap();
    }
    let end = loop {
        match receiver.receive::<ToKeeper>() {
            Ok(_) => {}
            Err(error) => break error,
        }
        if receiver.descriptors.len() > MAX_DESCRIPTORS {
            panic!("kept too many");
        }
    };
    assert!(matches!(end, WireError::Descriptors));
}
