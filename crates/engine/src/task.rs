//! Work on the disk of a container at rest that only its own machine can do: the machine is booted with its disks, guest
//! init does the work, and the machine is powered off again. No process of the container runs, no keeper keeps it; its
//! record shows that this process has claimed its files.
//!
//! The machine lives within this process: when it dies, so does the machine, and the next command frees the container.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use guest::{Event, Session, StdioRequest, Streams, Timeouts};
use monitor::{Machine, Surroundings, Tools};
use protocol::{ContainerConfig, ContainerId, ExitStatus, ProcessSpec, Task};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use state::Claim;

use crate::{
    Engine, accelerator,
    create::{self, Spec},
    error::{Error, chain},
    home,
    request::AcceleratorChoice,
};

/// How long is looked at nothing at most.
const TICK: Duration = Duration::from_millis(100);

/// How long a machine may take to power off.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// Bytes of its errors that are kept.
const ERRORS: u64 = 64 << 10;

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskEnd {
    /// 0 where it did all of it.
    pub code: u8,
    /// What it said on standard error.
    pub errors: String,
}

impl Engine {
    /// Boots the machine of a container that does not live for one task. `feed` writes the task's standard input, and is
    /// called once, when the task runs. A task that ends early takes no more: writing fails then, and how it ended says
    /// why; so the end goes before an error of `feed`.
    ///
    /// # Errors
    ///
    /// [`Error::State`] where the container lives or another command has it; [`Error::Task`]; whatever `feed` says.
    pub fn run_task(
        &self,
        id: &str,
        task: &Task,
        feed: &mut dyn FnMut(&mut dyn Write) -> Result<(), Error>,
    ) -> Result<TaskEnd, Error> {
        let claimed = self.claim(id, Claim::Files)?;
        self.check_installation()?;
        let spec = Spec::of(&claimed.record)?;
        let choice = match spec.accelerator {
            monitor::Accelerator::Kvm => AcceleratorChoice::Auto,
            monitor::Accelerator::Emulated => AcceleratorChoice::Emulated,
        };
        let chosen = accelerator::choose(choice, self.installation(), self.home())?;
        let (plan, _lease) = self.plan_of(&claimed.record, &spec, &chosen, &create::host()?)?;
        let tools = Tools { vmm: self.installation().vmm.clone(), emulator: chosen.emulator };
        let directory = self.home().run_container(id);
        home::make_private(&directory).map_err(|source| Error::home("make", &directory, source))?;
        let file_daemon = self.file_daemon(&spec.resolved.binds)?.map(|daemon| daemon.beside(&directory));
        let surroundings = Surroundings { limits: None, file_daemon };
        let machine = monitor::launch(plan.machine, chosen.accelerator, &tools, surroundings)?;
        let failed = |problem: String| Error::Task { name: claimed.record.name.clone(), problem };
        let session = Session::new(Timeouts::default()).map_err(|source| Error::Host("making an epoll", source))?;
        let mut guest = Guest { machine, session, container: ContainerId(claimed.record.id.clone()) };
        let config = ContainerConfig { wall_clock: wall_clock(), ..plan.container.clone() };
        let (stdin, stderr) = guest.begin(config, task).map_err(failed)?;
        let ended = thread::scope(|scope| {
            let reader = scope.spawn(move || read_errors(stderr));
            let loop_of_guest = scope.spawn(|| guest.finish());
            let mut stdin = stdin;
            let fed = feed(&mut stdin);
            let _ = stdin.shutdown(Shutdown::Write);
            let code = loop_of_guest.join().unwrap_or_else(|_| Err("the guest's session failed".to_owned()));
            let errors = reader.join().unwrap_or_default();
            match (code, fed) {
                (Ok(0), Err(error)) => Err(error),
                (Ok(code), _) => Ok(TaskEnd { code, errors }),
                (Err(problem), _) => Err(failed(problem)),
            }
        });
        claimed.release()?;
        ended
    }
}

/// A machine and what speaks in it.
struct Guest {
    machine: Machine,
    session: Session,
    container: ContainerId,
}

impl Guest {
    /// Up to the task's running. Problems are texts: who asked for it knows what it was for.
    fn begin(&mut self, config: ContainerConfig, task: &Task) -> Result<(UnixStream, UnixStream), String> {
        let mut config = Some(config);
        loop {
            for event in self.next()? {
                match event {
                    Event::Hello(_) => {
                        let config = config.take().ok_or("the guest began twice")?;
                        let created = self.session.create(self.container.clone(), config);
                        created.map_err(|error| chain(&error))?;
                    }
                    Event::Created { .. } => {
                        let process = ProcessSpec { task: task.clone(), ..ProcessSpec::default() };
                        let stdio = StdioRequest::Pipes { stdin: true, stdout: false, stderr: true };
                        let spawned = self.session.spawn(&self.container, process, stdio);
                        spawned.map_err(|error| chain(&error))?;
                    }
                    Event::Spawned { streams, .. } => return connected(streams),
                    Event::CreateFailed { error, .. } | Event::Fatal { error } => return Err(error),
                    Event::SpawnFailed { error, .. } => return Err(format!("{error:?}")),
                    _ => {}
                }
            }
        }
    }

    /// From there to the machine's end, with its disks synced.
    fn finish(&mut self) -> Result<u8, String> {
        let mut code = None;
        loop {
            let events = match self.next() {
                Err(_) if code.is_some() => break,
                events => events?,
            };
            for event in events {
                match event {
                    Event::Exited { status, .. } => {
                        code = Some(match status {
                            ExitStatus::Code(code) => code,
                            status @ ExitStatus::Signal(_) => status.shell_code(),
                        });
                        self.session.power_off().map_err(|error| chain(&error))?;
                    }
                    Event::Fatal { error } => return Err(error),
                    _ => {}
                }
            }
            if code.is_some() && self.machine.try_wait().is_some() {
                break;
            }
        }
        if self.machine.wait(Some(Instant::now() + LAST_WORDS)).is_none() {
            self.machine.stop();
            return Err("its machine did not power off".to_owned());
        }
        code.ok_or_else(|| "its machine ended before the task did".to_owned())
    }

    /// What the guest says next; nothing after a while.
    fn next(&mut self) -> Result<Vec<Event>, String> {
        if let Some(end) = self.machine.try_wait() {
            return Err(end.reason.to_string());
        }
        {
            let mut readable =
                [PollFd::new(&self.session, PollFlags::IN), PollFd::new(self.machine.vsock(), PollFlags::IN)];
            let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
            // Interrupted or not, what there is is looked at.
            let _ = poll(&mut readable, Some(&tick));
        }
        while let Ok(Some((port, stream))) = self.machine.vsock().try_accept() {
            let _ = self.session.offer(port, stream);
        }
        self.session.progress().map_err(|error| chain(&error))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.machine.try_wait().is_none() {
            self.machine.stop();
        }
    }
}

fn connected(streams: Streams) -> Result<(UnixStream, UnixStream), String> {
    let Streams::Pipes { stdin: Some(stdin), stderr: Some(stderr), .. } = streams else {
        return Err("the guest gave other streams than were asked for".to_owned());
    };
    for stream in [&stdin, &stderr] {
        stream.set_nonblocking(false).map_err(|error| error.to_string())?;
    }
    Ok((stdin, stderr))
}

fn read_errors(mut stderr: UnixStream) -> String {
    let mut errors = Vec::new();
    let _ = Read::by_ref(&mut stderr).take(ERRORS).read_to_end(&mut errors);
    // What is too much is read and dropped: nobody waits for it.
    let _ = std::io::copy(&mut stderr, &mut std::io::sink());
    let text = String::from_utf8_lossy(&errors);
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect::<String>().trim_end().to_owned()
}

fn wall_clock() -> (u64, u32) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_nanos())
}
