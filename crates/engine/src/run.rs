//! Running a container: making it and starting it at once; and what one holds of a container that runs.

use std::{thread, time::Duration};

use protocol::TerminalSize;
use state::{Claim, ContainerState};

use crate::{
    Engine,
    ending::{Ending, Reason, UNSEEN},
    error::Error,
    keeper::{
        client::{Attachment, Control, Outcome, Pipes, StartedKeeper},
        wire::AttachedStreams,
    },
    reconcile,
    request::{AcceleratorChoice, RunRequest},
    start::LaunchPad,
    timings::{self, Timings},
};

/// How a container is run, apart from what it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// The accelerator.
    pub accelerator: AcceleratorChoice,
    /// Streams to connect.
    pub streams: AttachedStreams,
    /// Nobody stays: its input, where it has one, does not end with this process.
    pub detach: bool,
    /// Size of the terminal.
    pub terminal_size: TerminalSize,
    /// `CLOCK_MONOTONIC` when the command began, nanoseconds.
    pub begun: u64,
}

/// A container that this process has launched, or has attached itself to.
#[derive(Debug)]
pub struct Run<'a> {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What the user should know: one line.
    pub notice: Option<String>,
    engine: &'a Engine,
    attachment: Attachment,
    /// Keeps the image's files until the container has ended, whatever becomes of the records.
    _lease: Option<store::Lease>,
}

impl Engine {
    /// Makes a container and starts it. When this fails, nothing of it is left.
    ///
    /// # Errors
    ///
    /// [`Error`], naming what is in the way.
    pub fn run(&self, request: &RunRequest, options: &RunOptions) -> Result<Run<'_>, Error> {
        let keeper = StartedKeeper::start()?;
        let prepared = self.prepare(request, options.accelerator)?;
        let timings = Timings { begun: options.begun, planned: Some(timings::now()), ..Timings::default() };
        let claimed = self.insert(&prepared, Claim::Start)?;
        self.furnish(&prepared)?;
        let pad = LaunchPad {
            keeper,
            chosen: prepared.chosen,
            host: prepared.host,
            streams: options.streams,
            detach: options.detach,
            terminal_size: options.terminal_size,
            timings,
        };
        self.launch(claimed, &prepared.spec, pad)
    }

    /// What became of a container whose keeper is gone.
    pub(crate) fn ending_of_lost(&self, id: &str) -> Ending {
        let lost = || Ending {
            reason: Reason::KeeperKilled,
            ..Ending::engine_error("the container's keeper died, and its machine with it".to_owned())
        };
        // The socket closes a moment before the process is gone.
        for _ in 0..50 {
            if reconcile::reconcile(self.state(), self.home()).is_err() {
                break;
            }
            match self.state().container(id) {
                Ok(record) if record.state == ContainerState::Exited => {
                    return Ending {
                        exit_code: record.exit_code.and_then(|c| u8::try_from(c).ok()).unwrap_or(UNSEEN),
                        error: record.error,
                        ..lost()
                    };
                }
                Ok(_) => thread::sleep(Duration::from_millis(20)),
                Err(_) => break,
            }
        }
        Ending { exit_code: UNSEEN, ..lost() }
    }
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        engine: &'a Engine,
        id: String,
        name: String,
        notice: Option<String>,
        attachment: Attachment,
        lease: Option<store::Lease>,
    ) -> Self {
        Self { id, name, notice, engine, attachment, _lease: lease }
    }

    /// For signals, sizes and the like while somebody waits.
    #[must_use]
    pub fn control(&self) -> Control {
        self.attachment.control()
    }

    /// Takes the streams.
    #[must_use]
    pub fn take_pipes(&mut self) -> Pipes {
        self.attachment.take_pipes()
    }

    /// Waits for the end; `started` is called whenever the process runs. `None`: the streams were let go by
    /// [`Control::detach`], and the container lives on.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub fn wait(mut self, mut started: impl FnMut()) -> Result<Option<Ending>, Error> {
        loop {
            match self.next_event()? {
                RunEvent::Ended(ending) => return Ok(Some(ending)),
                RunEvent::Detached => return Ok(None),
                RunEvent::Started => started(),
                RunEvent::Restarting(_) => {}
            }
        }
    }

    /// The next piece of news. The end and the detachment are the last.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub fn next_event(&mut self) -> Result<RunEvent, Error> {
        Ok(match self.attachment.next()? {
            Outcome::Ended(ending) => RunEvent::Ended(ending),
            Outcome::Lost => RunEvent::Ended(self.engine.ending_of_lost(&self.id)),
            Outcome::Detached => RunEvent::Detached,
            Outcome::Started => RunEvent::Started,
            Outcome::Restarting(ending) => RunEvent::Restarting(ending),
        })
    }

    /// Waits until the process runs and leaves it alone then; `None`: it does. Otherwise how it ended before it ran.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub fn detach(mut self) -> Result<Option<Ending>, Error> {
        loop {
            match self.next_event()? {
                RunEvent::Ended(ending) => return Ok(Some(ending)),
                RunEvent::Started | RunEvent::Detached => return Ok(None),
                RunEvent::Restarting(_) => {}
            }
        }
    }
}

/// What happens to a container that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEvent {
    /// Its process runs.
    Started,
    /// Its process ended, and will be started again.
    Restarting(Ending),
    /// It ended.
    Ended(Ending),
    /// Its streams were let go.
    Detached,
}
