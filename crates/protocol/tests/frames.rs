//! Frames: round trips of any message, golden bytes of each kind, and what bytes that are none lead to.

use proptest::collection::vec;
use proptest::prelude::*;
use protocol::*;

fn text() -> impl Strategy<Value = String> {
    ".{0,12}"
}

fn container() -> impl Strategy<Value = ContainerId> {
    "[a-z0-9]{1,64}".prop_map(ContainerId)
}

fn process() -> impl Strategy<Value = ProcessId> {
    any::<u32>().prop_map(ProcessId)
}

fn token() -> impl Strategy<Value = StreamToken> {
    any::<[u8; 16]>().prop_map(StreamToken)
}

fn size() -> impl Strategy<Value = TerminalSize> {
    any::<(u16, u16)>().prop_map(|(rows, columns)| TerminalSize { rows, columns })
}

fn limits() -> impl Strategy<Value = Limits> {
    any::<(Option<u64>, Option<u32>, Option<u64>)>().prop_map(|(memory, cpu_milli, pids)| Limits {
        memory,
        cpu_milli,
        pids,
    })
}

fn config() -> impl Strategy<Value = ContainerConfig> {
    let volume = (text(), text(), any::<bool>(), any::<bool>())
        .prop_map(|(disk, path, read_only, copy_up)| VolumeMount { disk, path, read_only, copy_up });
    let tmpfs = (text(), text()).prop_map(|(path, options)| Tmpfs { path, options });
    let bind =
        (text(), text(), any::<bool>()).prop_map(|(entry, path, read_only)| BindMount { entry, path, read_only });
    let mounts = (vec(tmpfs, 0..3), vec(volume, 0..3), vec(bind, 0..3));
    let texts = (text(), text(), text(), text(), text());
    let flags = any::<(bool, bool, u64, (u64, u32))>();
    (texts, flags, mounts, vec((text(), text()), 0..3), limits()).prop_map(
        |(texts, (read_only, privileged, shm_size, wall_clock), (tmpfs, volumes, binds), sysctls, limits)| {
            ContainerConfig {
                root_disk: texts.0,
                scratch_disk: texts.1,
                read_only,
                hostname: texts.2,
                hosts_file: texts.3,
                resolv_conf: texts.4,
                privileged,
                tmpfs,
                volumes,
                binds,
                shm_size,
                sysctls,
                limits,
                wall_clock,
            }
        },
    )
}

fn spec() -> impl Strategy<Value = ProcessSpec> {
    let strings = || vec(any::<Vec<u8>>(), 0..4);
    let rlimit = any::<(u32, u64, u64)>().prop_map(|(resource, soft, hard)| Rlimit { resource, soft, hard });
    let flags = any::<(u64, bool, bool, i16, Option<Vec<u8>>)>();
    let task = prop_oneof![
        Just(Task::Program),
        (text(), any::<bool>())
            .prop_map(|(directory, no_overwrite_dir_non_dir)| Task::Unpack { directory, no_overwrite_dir_non_dir }),
    ];
    (task, strings(), strings(), text(), text(), vec(text(), 0..3), flags, vec(rlimit, 0..3)).prop_map(
        |(task, argv, env, cwd, user, additional_groups, flags, rlimits)| ProcessSpec {
            task,
            argv,
            env,
            cwd,
            user,
            additional_groups,
            capabilities: Capabilities { bounding: flags.0 },
            no_new_privileges: flags.1,
            rlimits,
            init: flags.2,
            oom_score_adj: flags.3,
            seccomp: flags.4,
        },
    )
}

fn stdio() -> impl Strategy<Value = Stdio> {
    let maybe = || proptest::option::of(token());
    prop_oneof![
        (maybe(), maybe(), maybe()).prop_map(|(stdin, stdout, stderr)| Stdio::Pipes { stdin, stdout, stderr }),
        (token(), size()).prop_map(|(token, size)| Stdio::Terminal { token, size }),
    ]
}

fn question() -> impl Strategy<Value = Question> {
    prop_oneof![
        Just(Question::Freeze),
        Just(Question::Thaw),
        Just(Question::Usage),
        Just(Question::Processes),
        limits().prop_map(Question::SetLimits),
    ]
}

fn row() -> impl Strategy<Value = ProcessRow> {
    let numbers = any::<(u32, u32, u32, u8, u64, u64, u64)>();
    (numbers, proptest::option::of(text()), text(), any::<Vec<u8>>()).prop_map(|(numbers, user, tty, argv)| {
        let (pid, ppid, uid, state, cpu_ms, rss, started) = numbers;
        ProcessRow { pid, ppid, uid, user, state, cpu_ms, rss, started, tty, argv }
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    let usage = any::<(u64, u64, u64, u32)>().prop_map(|(at, memory, cpu, cpus)| Usage {
        at,
        memory,
        cpu,
        cpus,
        ..Usage::default()
    });
    prop_oneof![
        Just(Answer::Frozen),
        Just(Answer::Thawed),
        Just(Answer::LimitsSet),
        usage.prop_map(Answer::Usage),
        (vec(row(), 0..4), any::<bool>()).prop_map(|(rows, last)| Answer::Processes { rows, last }),
        text().prop_map(Answer::Refused),
    ]
}

fn host_message() -> impl Strategy<Value = HostMessage> {
    prop_oneof![
        (container(), config())
            .prop_map(|(container, config)| HostMessage::Create { container, config: Box::new(config) }),
        (container(), process(), spec(), stdio()).prop_map(|(container, process, spec, stdio)| HostMessage::Spawn {
            container,
            process,
            spec: Box::new(spec),
            stdio
        }),
        (container(), process(), any::<u8>()).prop_map(|(container, process, signal)| HostMessage::Signal {
            container,
            process,
            signal
        }),
        (container(), process(), size()).prop_map(|(container, process, size)| HostMessage::Resize {
            container,
            process,
            size
        }),
        (container(), any::<u32>().prop_map(RequestId), question())
            .prop_map(|(container, request, question)| HostMessage::Ask { container, request, question }),
        Just(HostMessage::PowerOff),
    ]
}

fn spawn_error() -> impl Strategy<Value = SpawnError> {
    prop_oneof![
        text().prop_map(SpawnError::NotFound),
        text().prop_map(SpawnError::NotExecutable),
        text().prop_map(SpawnError::UnknownUser),
        text().prop_map(SpawnError::WorkingDirectory),
        text().prop_map(SpawnError::Other),
    ]
}

fn guest_message() -> impl Strategy<Value = GuestMessage> {
    let status = prop_oneof![any::<u8>().prop_map(ExitStatus::Code), any::<u8>().prop_map(ExitStatus::Signal)];
    prop_oneof![
        (any::<u32>(), text(), any::<(u64, u64)>()).prop_map(|(version, kernel_release, (init_started, sent))| {
            GuestMessage::Hello(Hello { version, kernel_release, init_started, sent })
        }),
        container().prop_map(|container| GuestMessage::Created { container }),
        (container(), text()).prop_map(|(container, error)| GuestMessage::CreateFailed { container, error }),
        (container(), process(), any::<(u32, u64)>())
            .prop_map(|(container, process, (pid, at))| GuestMessage::Spawned { container, process, pid, at }),
        (container(), process(), spawn_error()).prop_map(|(container, process, error)| GuestMessage::SpawnFailed {
            container,
            process,
            error
        }),
        (container(), any::<u32>().prop_map(RequestId), answer())
            .prop_map(|(container, request, answer)| GuestMessage::Answer { container, request, answer }),
        (container(), process(), status, any::<bool>()).prop_map(|(container, process, status, oom_killed)| {
            GuestMessage::Exited { container, process, status, oom_killed }
        }),
        text().prop_map(|error| GuestMessage::Fatal { error }),
        Just(GuestMessage::PoweringOff),
    ]
}

/// All messages in bytes that arrive in pieces of the given lengths.
fn receive<T: serde::de::DeserializeOwned>(bytes: &[u8], pieces: &[usize]) -> Result<Vec<T>, FrameError> {
    let mut frames = FrameBuffer::new();
    let mut messages = Vec::new();
    let mut rest = bytes;
    let mut pieces = pieces.iter().copied().cycle();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(pieces.next().unwrap_or(rest.len()).clamp(1, rest.len()));
        rest = after;
        frames.extend(piece);
        while let Some(message) = frames.take_message()? {
            messages.push(message);
        }
    }
    assert!(!frames.is_partial());
    Ok(messages)
}

proptest! {
    #[test]
    fn host_messages_survive_any_split(messages in vec(host_message(), 0..4), pieces in vec(1_usize..64, 1..8)) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| encode_frame(message).unwrap()).collect();
        prop_assert_eq!(receive::<HostMessage>(&bytes, &pieces).unwrap(), messages);
    }

    #[test]
    fn guest_messages_survive_any_split(messages in vec(guest_message(), 0..4), pieces in vec(1_usize..64, 1..8)) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| encode_frame(message).unwrap()).collect();
        prop_assert_eq!(receive::<GuestMessage>(&bytes, &pieces).unwrap(), messages);
    }

    #[test]
    fn any_bytes_are_survived(bytes in any::<Vec<u8>>()) {
        for limit in [16, MAX_FRAME] {
            let mut frames = FrameBuffer::with_limit(limit);
            frames.extend(&bytes);
            while let Ok(Some(_)) = frames.take_message::<HostMessage>() {}
            let mut frames = FrameBuffer::with_limit(limit);
            frames.extend(&bytes);
            while let Ok(Some(_)) = frames.take_message::<GuestMessage>() {}
        }
    }

    #[test]
    fn a_cut_frame_is_no_message(message in host_message(), cut in any::<proptest::sample::Index>()) {
        let frame = encode_frame(&message).unwrap();
        let mut frames = FrameBuffer::new();
        frames.extend(&frame[..cut.index(frame.len())]);
        prop_assert_eq!(frames.take_message::<HostMessage>(), Ok(None));
    }

    #[test]
    fn stream_opens_have_one_length(token in token()) {
        let open = StreamOpen { token };
        prop_assert_eq!(encode_frame(&open).unwrap(), open.to_frame().to_vec());
        prop_assert_eq!(StreamOpen::from_frame(&open.to_frame()), Some(open));
    }
}

#[test]
fn lengths_are_limited_before_anything_is_held() {
    let mut frames = FrameBuffer::with_limit(100);
    frames.extend(&101_u32.to_le_bytes());
    assert_eq!(frames.take_message::<GuestMessage>(), Err(FrameError::TooLarge { length: 101, limit: 100 }));
    let mut frames = FrameBuffer::new();
    frames.extend(&[255; 4]);
    let length = u32::MAX as usize;
    assert_eq!(frames.take_message::<GuestMessage>(), Err(FrameError::TooLarge { length, limit: MAX_FRAME }));
}

#[test]
fn a_body_is_exactly_one_message() {
    for body in [&[][..], &[7, 0], &[99], &[1, 5, b'a']] {
        let mut frames = FrameBuffer::new();
        frames.extend(&u32::try_from(body.len()).unwrap().to_le_bytes());
        frames.extend(body);
        assert_eq!(frames.take_message::<GuestMessage>(), Err(FrameError::Malformed), "{body:?}");
    }
}

#[test]
fn a_message_over_the_limit_is_not_made() {
    let message = GuestMessage::Fatal { error: "x".repeat(MAX_FRAME) };
    assert!(matches!(encode_frame(&message), Err(FrameError::TooLarge { limit: MAX_FRAME, .. })));
}

#[test]
fn two_mebibytes_of_arguments_fit() {
    let spec =
        ProcessSpec { argv: vec![b"x".to_vec(); 1 << 20], env: vec![vec![b'y'; 1 << 20]], ..ProcessSpec::default() };
    let message = HostMessage::Spawn {
        container: ContainerId("a".to_owned()),
        process: ProcessId(1),
        spec: Box::new(spec),
        stdio: Stdio::Pipes { stdin: None, stdout: None, stderr: None },
    };
    encode_frame(&message).unwrap();
}

/// Bytes that must not change without a new [`VERSION`]: host and guest may come from different builds.
#[test]
fn golden_bytes() {
    assert_eq!((VERSION, CONTROL_PORT, STREAM_PORT), (3, 1024, 1025));
    let container = || ContainerId("c1".to_owned());
    let process = ProcessId(300);
    let row = ProcessRow {
        pid: 1,
        ppid: 2,
        uid: 3,
        user: Some("u".to_owned()),
        state: b'S',
        cpu_ms: 4,
        rss: 5,
        started: 6,
        tty: "?".to_owned(),
        argv: b"id\0".to_vec(),
    };
    let guest: [(GuestMessage, &[u8]); 10] = [
        (
            GuestMessage::Hello(Hello { version: 1, kernel_release: "6".to_owned(), init_started: 2, sent: 128 }),
            &[7, 0, 0, 0, 0, 1, 1, b'6', 2, 0x80, 1],
        ),
        (GuestMessage::Created { container: container() }, &[4, 0, 0, 0, 1, 2, b'c', b'1']),
        (
            GuestMessage::CreateFailed { container: container(), error: "e".to_owned() },
            &[6, 0, 0, 0, 2, 2, b'c', b'1', 1, b'e'],
        ),
        (
            GuestMessage::Spawned { container: container(), process, pid: 5, at: 6 },
            &[8, 0, 0, 0, 3, 2, b'c', b'1', 0xac, 2, 5, 6],
        ),
        (
            GuestMessage::SpawnFailed { container: container(), process, error: SpawnError::Other("o".to_owned()) },
            &[9, 0, 0, 0, 4, 2, b'c', b'1', 0xac, 2, 4, 1, b'o'],
        ),
        (
            GuestMessage::Exited { container: container(), process, status: ExitStatus::Signal(9), oom_killed: true },
            &[9, 0, 0, 0, 5, 2, b'c', b'1', 0xac, 2, 1, 9, 1],
        ),
        (GuestMessage::Fatal { error: "f".to_owned() }, &[3, 0, 0, 0, 6, 1, b'f']),
        (GuestMessage::PoweringOff, &[1, 0, 0, 0, 7]),
        (
            GuestMessage::Answer { container: container(), request: RequestId(300), answer: Answer::Thawed },
            &[7, 0, 0, 0, 8, 2, b'c', b'1', 0xac, 2, 1],
        ),
        (
            GuestMessage::Answer {
                container: container(),
                request: RequestId(1),
                answer: Answer::Processes { rows: vec![row], last: true },
            },
            &[24, 0, 0, 0, 8, 2, b'c', b'1', 1, 3, 1, 1, 2, 3, 1, 1, b'u', b'S', 4, 5, 6, 1, b'?', 3, b'i', b'd', 0, 1],
        ),
    ];
    for (message, bytes) in guest {
        assert_eq!(encode_frame(&message).unwrap(), bytes, "{message:?}");
    }
    let size = TerminalSize { rows: 24, columns: 80 };
    let limits = Limits { memory: None, cpu_milli: Some(1), pids: None };
    let host: [(HostMessage, &[u8]); 5] = [
        (
            HostMessage::Signal { container: container(), process, signal: 15 },
            &[7, 0, 0, 0, 2, 2, b'c', b'1', 0xac, 2, 15],
        ),
        (
            HostMessage::Resize { container: container(), process, size },
            &[8, 0, 0, 0, 3, 2, b'c', b'1', 0xac, 2, 24, 80],
        ),
        (HostMessage::PowerOff, &[1, 0, 0, 0, 4]),
        (
            HostMessage::Ask { container: container(), request: RequestId(1), question: Question::Freeze },
            &[6, 0, 0, 0, 5, 2, b'c', b'1', 1, 0],
        ),
        (
            HostMessage::Ask { container: container(), request: RequestId(1), question: Question::SetLimits(limits) },
            &[10, 0, 0, 0, 5, 2, b'c', b'1', 1, 4, 0, 1, 1, 0],
        ),
    ];
    for (message, bytes) in host {
        assert_eq!(encode_frame(&message).unwrap(), bytes, "{message:?}");
    }
    let open = StreamOpen { token: StreamToken([7; 16]) };
    assert_eq!(open.to_frame(), [16, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]);
    assert_eq!(ExitStatus::Signal(9).shell_code(), 137);
    assert_eq!((ExitStatus::Code(255).shell_code(), ExitStatus::Signal(200).shell_code()), (255, 255));
}

/// The bodies of the two messages with everything in them.
#[test]
fn golden_requests() {
    let config = ContainerConfig {
        root_disk: "root".to_owned(),
        scratch_disk: "scratch".to_owned(),
        read_only: true,
        hostname: "h".to_owned(),
        hosts_file: "127.0.0.1 localhost\n".to_owned(),
        resolv_conf: String::new(),
        privileged: false,
        tmpfs: vec![Tmpfs { path: "/t".to_owned(), options: "ro".to_owned() }],
        volumes: vec![VolumeMount { disk: "v0".to_owned(), path: "/v".to_owned(), read_only: false, copy_up: true }],
        binds: vec![BindMount { entry: "0".to_owned(), path: "/b".to_owned(), read_only: true }],
        shm_size: 64 << 20,
        sysctls: vec![("a.b".to_owned(), "1".to_owned())],
        limits: Limits { memory: Some(1 << 20), cpu_milli: None, pids: Some(7) },
        wall_clock: (1, 2),
    };
    let create = HostMessage::Create { container: ContainerId("c1".to_owned()), config: Box::new(config) };
    let expected =
        b"\0\x02c1\x04root\x07scratch\x01\x01h\x14127.0.0.1 localhost\n\0\0\x01\x02/t\x02ro\x01\x02v0\x02/v\0\x01\
        \x01\x010\x02/b\x01\x80\x80\x80\x20\x01\x03a.b\x011\x01\x80\x80\x40\0\x01\x07\x01\x02";
    assert_eq!(encode_frame(&create).unwrap()[4..], expected[..]);
    let spec = ProcessSpec {
        task: Task::Program,
        argv: vec![b"ls".to_vec(), b"-l".to_vec()],
        env: vec![b"A=1".to_vec()],
        cwd: "/".to_owned(),
        user: "u".to_owned(),
        additional_groups: vec!["g".to_owned()],
        capabilities: Capabilities { bounding: 129 },
        no_new_privileges: true,
        rlimits: vec![Rlimit { resource: 7, soft: 1, hard: u64::MAX }],
        oom_score_adj: -1,
        seccomp: Some(vec![6, 0, 0, 0, 0, 0, 255, 127]),
        init: false,
    };
    let stdio = Stdio::Pipes { stdin: None, stdout: Some(StreamToken([9; 16])), stderr: None };
    let spawn = HostMessage::Spawn {
        container: ContainerId("c1".to_owned()),
        process: ProcessId(1),
        spec: Box::new(spec),
        stdio,
    };
    let expected = b"\x01\x02c1\x01\0\x02\x02ls\x02-l\x01\x03A=1\x01/\x01u\x01\x01g\x81\x01\x01\x01\x07\x01\
        \xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01\x01\x08\x06\0\0\0\0\0\xff\x7f\0\0\0\x01\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\0";
    assert_eq!(encode_frame(&spawn).unwrap()[4..], expected[..]);
}
