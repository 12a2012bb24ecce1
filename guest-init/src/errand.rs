//! Questions of the host that may take a while: each is answered by a child of guest init, so that the loop does not
//! wait for a disk, for memory to be given back, or for what a process says of itself.
//!
//! ```text
//!  begin ─▶ Under way ──(answers, to the last)──▶ forgotten
//!               ├──(the child died)──▶ forgotten: Refused
//!               └──(too slow)──▶ killed, forgotten: Refused
//! ```

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use protocol::{Answer, ContainerId, FrameBuffer, ProcessRow, Question, encode_frame};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use crate::container::Container;
use crate::failure::{Context, Result};
use crate::{process_table, sys};

/// How long an errand may take. Less than the host waits.
const TIMEOUT: Duration = Duration::from_secs(50);

/// Most errands at a time; the host asks fewer.
pub(crate) const MAX_ERRANDS: usize = 128;

/// Rows of a process table in one answer: of such length that it fits a frame of the guest.
const ROWS: usize = 64;

/// A question under way.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) container: ContainerId,
    pub(crate) until: Instant,
    pub(crate) answers: OwnedFd,
    pub(crate) child: Pid,
    frames: FrameBuffer,
}

/// What an errand has brought.
#[derive(Debug)]
pub(crate) enum Brought {
    /// This, and more follows.
    Part(Answer),
    /// This, and no more.
    Last(Answer),
}

impl Errand {
    /// Starts the child.
    pub(crate) fn begin(id: &ContainerId, container: &Container, question: &Question) -> Result<Self> {
        let (answers, theirs) = pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe".to_owned())?;
        rustix::io::ioctl_fionbio(&answers, true).context(|| "make a pipe".to_owned())?;
        match sys::fork(0, None).context(|| "start a child".to_owned())? {
            sys::Fork::Child => run(container, question, &theirs),
            sys::Fork::Parent(child) => Ok(Self {
                container: id.clone(),
                until: Instant::now() + TIMEOUT,
                answers,
                child,
                frames: FrameBuffer::new(),
            }),
        }
    }

    /// What the child says next; `None` if it is still at work.
    pub(crate) fn listen(&mut self) -> Option<Brought> {
        let mut chunk = [0; 16 << 10];
        loop {
            match self.frames.take_message::<Answer>() {
                Ok(Some(answer @ Answer::Processes { last: false, .. })) => return Some(Brought::Part(answer)),
                Ok(Some(answer)) => return Some(Brought::Last(answer)),
                Ok(None) => {}
                Err(error) => return Some(Brought::Last(Answer::Refused(error.to_string()))),
            }
            match rustix::io::read(&self.answers, &mut chunk) {
                Ok(length @ 1..) => self.frames.extend(chunk.get(..length).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Ok(0) | Err(_) => {
                    return Some(Brought::Last(Answer::Refused("the child that was to find it out died".to_owned())));
                }
            }
        }
    }

    /// Gives up. Only for one that was just listened to in vain.
    pub(crate) fn kill(&self) {
        // While its end of the pipe is open it lives, so its pid is its own.
        let _ = sys::kill(self.child.as_raw_pid(), libc::SIGKILL);
    }
}

/// The child.
fn run(container: &Container, question: &Question, answers: &OwnedFd) -> ! {
    let mut kept = [answers.as_raw_fd(), container.namespaces.as_raw_fd()];
    sys::close_all_but(3, &mut kept);
    let refused = |result: Result<()>, answer| match result {
        Ok(()) => answer,
        Err(failure) => Answer::Refused(failure.0),
    };
    match question {
        Question::Freeze => say(answers, &refused(container.disks.freeze(), Answer::Frozen)),
        Question::Thaw => {
            container.disks.thaw();
            say(answers, &Answer::Thawed);
        }
        Question::SetLimits(limits) => {
            say(answers, &refused(container.cgroup.set_limits(limits), Answer::LimitsSet));
        }
        Question::Processes => {
            use std::os::fd::AsFd;
            say_rows(answers, process_table::list(container.cgroup.path(), container.namespaces.as_fd()));
        }
        Question::Usage => say(answers, &Answer::Usage(crate::usage::of(container.cgroup.path()))),
    }
    sys::exit(0)
}

fn say_rows(answers: &OwnedFd, mut rows: Vec<ProcessRow>) {
    loop {
        let rest = rows.split_off(rows.len().min(ROWS));
        let last = rest.is_empty();
        say(answers, &Answer::Processes { rows, last });
        if last {
            return;
        }
        rows = rest;
    }
}

fn say(answers: &OwnedFd, answer: &Answer) {
    let Ok(frame) = encode_frame(answer) else { return };
    let mut rest = frame.as_slice();
    while !rest.is_empty() {
        match rustix::io::write(answers, rest) {
            Ok(length) => rest = rest.get(length..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
