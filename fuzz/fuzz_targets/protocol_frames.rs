//! Arbitrary bytes as frames of both directions, and as the guest's side of a whole conversation.
//!
//! The first byte chooses. A conversation is driven by commands: the host's requests, stream connections, the
//! passing of time, and frames of the guest that are either raw bytes or built from them so that they decode.

#![no_main]

use std::time::{Duration, Instant};

use guest::{Conversation, Event, StdioRequest, Timeouts};
use libfuzzer_sys::fuzz_target;
use protocol::*;
use serde::{Serialize, de::DeserializeOwned};

/// Takes every message; what decodes must encode to what decodes to the same.
fn frames<T>(bytes: &[u8], limit: usize)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let mut buffer = FrameBuffer::with_limit(limit);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    buffer.extend(first);
    let mut fed = false;
    loop {
        match buffer.take_message::<T>() {
            Ok(Some(message)) => {
                let mut again = FrameBuffer::new();
                again.extend(&encode_frame(&message).expect("it came from a frame"));
                assert_eq!(again.take_message::<T>(), Ok(Some(message)));
            }
            Ok(None) if !fed => {
                buffer.extend(second);
                fed = true;
            }
            Ok(None) | Err(_) => return,
        }
    }
}

/// Commands from bytes.
struct Commands<'a>(&'a [u8]);

impl Commands<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn container(&mut self) -> Option<ContainerId> {
        Some(ContainerId(["a", "b", ""].get(usize::from(self.byte()?) % 3)?.to_string()))
    }

    fn process(&mut self) -> Option<ProcessId> {
        Some(ProcessId(u32::from(self.byte()? % 5)))
    }

    /// A message that decodes.
    fn message(&mut self) -> Option<GuestMessage> {
        Some(match self.byte()? % 8 {
            0 => {
                let version = VERSION + u32::from(self.byte()? / 200);
                GuestMessage::Hello(Hello { version, kernel_release: "\u{1b}".to_owned(), init_started: 0, sent: 0 })
            }
            1 => GuestMessage::Created { container: self.container()? },
            2 => GuestMessage::CreateFailed { container: self.container()?, error: String::new() },
            3 => GuestMessage::Spawned { container: self.container()?, process: self.process()?, pid: 1, at: 1 },
            4 => {
                let error = SpawnError::Other(String::new());
                GuestMessage::SpawnFailed { container: self.container()?, process: self.process()?, error }
            }
            5 => {
                let status = ExitStatus::Code(self.byte()?);
                let (container, process) = (self.container()?, self.process()?);
                GuestMessage::Exited { container, process, status, oom_killed: false }
            }
            6 => GuestMessage::Fatal { error: String::new() },
            _ => GuestMessage::PoweringOff,
        })
    }
}

fn config() -> ContainerConfig {
    ContainerConfig {
        root_disk: String::new(),
        scratch_disk: String::new(),
        read_only: false,
        hostname: String::new(),
        hosts_file: String::new(),
        resolv_conf: String::new(),
        privileged: false,
        tmpfs: vec![],
        volumes: vec![],
        shm_size: 0,
        sysctls: vec![],
        limits: Limits::default(),
        wall_clock: (0, 0),
    }
}

fn spec() -> ProcessSpec {
    ProcessSpec {
        argv: vec![],
        env: vec![],
        cwd: String::new(),
        user: String::new(),
        additional_groups: vec![],
        capabilities: Capabilities::default(),
        no_new_privileges: false,
        ..ProcessSpec::default()
    }
}

/// What the host may rely on, whatever the guest does: each process is spawned before it exits, and ends once.
#[derive(Default)]
struct Promises {
    hellos: u32,
    running: Vec<ProcessId>,
    ended: bool,
}

impl Promises {
    fn check(&mut self, event: &Event<()>) {
        assert!(!self.ended, "{event:?} after the end");
        match event {
            Event::Hello(hello) => {
                self.hellos += 1;
                assert!(self.hellos == 1 && !hello.kernel_release.contains('\u{1b}'));
            }
            Event::Spawned { process, .. } => {
                assert!(!self.running.contains(process));
                self.running.push(*process);
            }
            Event::Exited { process, .. } => {
                let index = self.running.iter().position(|running| running == process);
                self.running.swap_remove(index.expect("it was spawned"));
            }
            Event::Ended => self.ended = true,
            _ => {}
        }
    }
}

fn converse(bytes: &[u8]) -> Option<()> {
    let mut commands = Commands(bytes);
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let timeouts = Timeouts {
        hello: 20 * second,
        create: 20 * second,
        copy_up: 20 * second,
        spawn: 20 * second,
        answer: 20 * second,
        power_off: 20 * second,
    };
    let mut conversation = Conversation::<()>::new(timeouts, start);
    let (mut promises, mut events, mut tokens) = (Promises::default(), Vec::new(), 0_u8);
    let mut now = start;
    loop {
        let mut failed = false;
        match commands.byte()? % 10 {
            0 => drop(conversation.create(commands.container()?, config(), now)),
            1 => {
                let is_wanted = commands.byte()?;
                let request = StdioRequest::Pipes {
                    stdin: is_wanted & 1 != 0,
                    stdout: is_wanted & 2 != 0,
                    stderr: is_wanted & 4 != 0,
                };
                let token = || {
                    tokens = tokens.wrapping_add(1);
                    Ok(StreamToken([tokens; 16]))
                };
                let _ = conversation.spawn(&commands.container()?, spec(), request, now, token);
            }
            2 => {
                let token = StreamToken([commands.byte()? % 16; 16]);
                let _ = conversation.connect(&token, (), &mut events);
            }
            3 => drop(conversation.power_off(now)),
            4 => {
                now += Duration::from_millis(100 * u64::from(commands.byte()?));
                failed = conversation.expire(now, &mut events).is_err();
                assert!(failed || conversation.deadline().is_none_or(|deadline| deadline > now));
            }
            _ => failed = conversation.receive(commands.message()?, now, &mut events).is_err(),
        }
        events.drain(..).for_each(|event| promises.check(&event));
        assert!(!failed || conversation.has_ended());
        if failed {
            return None;
        }
        assert_eq!(promises.ended, conversation.has_ended());
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    match choice % 3 {
        0 => frames::<GuestMessage>(bytes, MAX_GUEST_FRAME),
        1 => frames::<HostMessage>(bytes, MAX_FRAME),
        _ => drop(converse(bytes)),
    }
});
