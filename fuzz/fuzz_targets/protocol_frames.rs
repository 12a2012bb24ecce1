//! Arbitrary bytes as frames of both directions, as a stream of entries to unpack, and as the guest's side of a whole
//! conversation.
//!
//! The first byte chooses. A conversation is driven by commands: the host's requests, stream connections, the
//! passing of time, and frames of the guest that are either raw bytes or built from them so that they decode.

#![no_main]

use std::time::{Duration, Instant};

use guest::{Conversation, Event, Reply, StdioRequest, Timeouts};
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

/// Decodes a stream of entries in chunks of a length, to its end or its first error.
fn pieces(bytes: &[u8], length: usize) -> (Vec<unpack::Entry>, Vec<u8>, Option<unpack::UnpackError>) {
    let (mut entries, mut content) = (Vec::new(), Vec::new());
    let mut decoder = unpack::Decoder::default();
    for mut chunk in bytes.chunks(length) {
        loop {
            match decoder.take(&mut chunk) {
                Ok(Some(unpack::Piece::Entry(entry))) => {
                    entry.check().expect("it was checked");
                    assert!(entry.path.split(|byte| *byte == b'/').all(|name| name != b".." && name != b"."));
                    entries.push(*entry);
                }
                Ok(Some(unpack::Piece::Content(bytes))) => {
                    assert!(!bytes.is_empty());
                    content.extend_from_slice(bytes);
                }
                Ok(Some(unpack::Piece::End)) => {}
                Ok(None) => {
                    assert!(chunk.is_empty());
                    break;
                }
                Err(error) => return (entries, content, Some(error)),
            }
        }
    }
    (entries, content, decoder.finish().err())
}

/// However it is cut into chunks, a stream is the same; never more content than entries say.
fn entries(bytes: &[u8]) {
    let Some((length, bytes)) = bytes.split_first() else { return };
    let whole = pieces(bytes, bytes.len().max(1));
    assert_eq!(whole, pieces(bytes, usize::from(*length).max(1)));
    let promised = whole.0.iter().fold(0, |sum: u64, entry| sum.saturating_add(entry.size()));
    assert!(whole.1.len() as u64 <= promised);
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

    fn question(&mut self) -> Option<Question> {
        let questions = [
            Question::Freeze,
            Question::Thaw,
            Question::Usage,
            Question::Processes,
            Question::SetLimits(Limits::default()),
        ];
        questions.get(usize::from(self.byte()? % 5)).cloned()
    }

    fn answer(&mut self) -> Option<Answer> {
        Some(match self.byte()? % 6 {
            0 => Answer::Frozen,
            1 => Answer::Thawed,
            2 => Answer::Usage(Usage::default()),
            3 => {
                let row = ProcessRow { user: Some("\u{1b}".to_owned()), argv: vec![0; 1000], ..ProcessRow::default() };
                Answer::Processes { rows: vec![row; usize::from(self.byte()?) * 8], last: self.byte()? % 2 == 0 }
            }
            4 => Answer::LimitsSet,
            _ => Answer::Refused("\u{1b}".to_owned()),
        })
    }

    /// A message that decodes.
    fn message(&mut self) -> Option<GuestMessage> {
        Some(match self.byte()? % 9 {
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
            6 => {
                let (container, request) = (self.container()?, RequestId(u32::from(self.byte()? % 5)));
                GuestMessage::Answer { container, request, answer: self.answer()? }
            }
            7 => GuestMessage::Fatal { error: String::new() },
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
        binds: vec![],
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

/// What the host may rely on, whatever the guest does: each process is spawned before it exits, and ends once; each
/// question is answered once at the most.
#[derive(Default)]
struct Promises {
    hellos: u32,
    running: Vec<ProcessId>,
    asked: Vec<RequestId>,
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
            Event::Answered { request, reply, .. } => {
                let index = self.asked.iter().position(|asked| asked == request);
                self.asked.swap_remove(index.expect("it was asked, and not answered"));
                match reply {
                    Reply::Refused(text) => assert!(!text.contains('\u{1b}')),
                    Reply::Processes(rows) => {
                        assert!(rows.len() <= MAX_PROCESS_ROWS && rows.iter().all(|row| row.argv.len() <= MAX_ROW_ARGV))
                    }
                    _ => {}
                }
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
        match commands.byte()? % 11 {
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
            5 => {
                let (container, question) = (commands.container()?, commands.question()?);
                if let Ok((request, _)) = conversation.ask(&container, question, now) {
                    promises.asked.push(request);
                }
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
    match choice % 4 {
        0 => frames::<GuestMessage>(bytes, MAX_GUEST_FRAME),
        1 => frames::<HostMessage>(bytes, MAX_FRAME),
        2 => entries(bytes),
        _ => drop(converse(bytes)),
    }
});
