//! What the host may ask for, and when: requests in, messages out.

use std::time::{Duration, Instant};

use protocol::{
    ContainerConfig, ContainerId, HostMessage, ProcessId, ProcessSpec, Question, RequestId, Stdio, StreamToken,
    TerminalSize,
};

use super::{Container, Conversation, Phase, Process, ProcessState, Slot};
use crate::{RequestError, StdioRequest};

/// Most processes at a time.
pub const MAX_PROCESSES: usize = 1100;

impl<S> Conversation<S> {
    /// Whether requests can be made now.
    fn ready(&self) -> Result<(), RequestError> {
        match self.phase {
            Phase::Handshake => Err(RequestError::NotReady),
            Phase::Ready if self.power_off_until.is_none() => Ok(()),
            Phase::Ready | Phase::Ended => Err(RequestError::Ended),
        }
    }

    /// The message that sets a container up.
    ///
    /// # Errors
    ///
    /// Not ready, or the container exists.
    pub fn create(
        &mut self,
        container: ContainerId,
        config: ContainerConfig,
        now: Instant,
    ) -> Result<HostMessage, RequestError> {
        self.ready()?;
        if self.containers.contains_key(&container) {
            return Err(RequestError::DuplicateContainer(container));
        }
        let copies = config.volumes.iter().any(|volume| volume.copy_up);
        let until = now + self.timeouts.create + if copies { self.timeouts.copy_up } else { Duration::ZERO };
        self.containers.insert(container.clone(), Container::Creating { until });
        Ok(HostMessage::Create { container, config: Box::new(config) })
    }

    /// The message that starts a process. `token` makes secrets.
    ///
    /// # Errors
    ///
    /// Not ready, no such container, or no secrets to be had.
    pub fn spawn(
        &mut self,
        container: &ContainerId,
        spec: ProcessSpec,
        request: StdioRequest,
        now: Instant,
        mut token: impl FnMut() -> std::io::Result<StreamToken>,
    ) -> Result<(ProcessId, HostMessage), RequestError> {
        self.ready()?;
        if !matches!(self.containers.get(container), Some(Container::Created)) {
            return Err(RequestError::UnknownContainer(container.clone()));
        }
        if self.processes.len() >= MAX_PROCESSES {
            return Err(RequestError::TooManyProcesses);
        }
        let mut wanted = |is_wanted: bool| is_wanted.then(&mut token).transpose().map_err(RequestError::Io);
        let (stdio, tokens) = match request {
            StdioRequest::Pipes { stdin, stdout, stderr } => {
                let [stdin, stdout, stderr] = [wanted(stdin)?, wanted(stdout)?, wanted(stderr)?];
                (Stdio::Pipes { stdin, stdout, stderr }, [stdin, stdout, stderr])
            }
            StdioRequest::Terminal { size } => {
                let token = token().map_err(RequestError::Io)?;
                (Stdio::Terminal { token, size }, [Some(token), None, None])
            }
        };
        self.last_process = self.last_process.checked_add(1).ok_or(RequestError::QueueFull)?;
        let process = ProcessId(self.last_process);
        let known = Process {
            container: container.clone(),
            terminal: matches!(request, StdioRequest::Terminal { .. }),
            slots: tokens.map(|token| token.map_or(Slot::Unused, Slot::Expected)),
            state: ProcessState::Starting { until: now + self.timeouts.spawn },
        };
        self.processes.insert(process, known);
        let message = HostMessage::Spawn { container: container.clone(), process, spec: Box::new(spec), stdio };
        Ok((process, message))
    }

    /// Takes a request back whose message could not be sent.
    pub fn retract(&mut self, message: &HostMessage) {
        match message {
            HostMessage::Create { container, .. } => drop(self.containers.remove(container)),
            HostMessage::Spawn { process, .. } => drop(self.processes.remove(process)),
            HostMessage::PowerOff => self.power_off_until = None,
            HostMessage::Ask { request, .. } => self.questions.retract(*request),
            HostMessage::Signal { .. } | HostMessage::Resize { .. } => {}
        }
    }

    /// The message that signals a process.
    ///
    /// # Errors
    ///
    /// Not ready, no such process, no such signal.
    pub fn signal(&self, process: ProcessId, signal: u8) -> Result<HostMessage, RequestError> {
        let container = self.container_of(process)?;
        if !(1..=64).contains(&signal) {
            return Err(RequestError::BadSignal(signal));
        }
        Ok(HostMessage::Signal { container, process, signal })
    }

    /// The message that sets the size of a process's terminal.
    ///
    /// # Errors
    ///
    /// Not ready, or no such process.
    pub fn resize(&self, process: ProcessId, size: TerminalSize) -> Result<HostMessage, RequestError> {
        Ok(HostMessage::Resize { container: self.container_of(process)?, process, size })
    }

    /// The message that asks about a container that is set up.
    ///
    /// # Errors
    ///
    /// Not ready, no such container, too many questions.
    pub fn ask(
        &mut self,
        container: &ContainerId,
        question: Question,
        now: Instant,
    ) -> Result<(RequestId, HostMessage), RequestError> {
        self.ready()?;
        if !matches!(self.containers.get(container), Some(Container::Created)) {
            return Err(RequestError::UnknownContainer(container.clone()));
        }
        let request = self.questions.ask(container, &question, now + self.timeouts.answer)?;
        Ok((request, HostMessage::Ask { container: container.clone(), request, question }))
    }

    fn container_of(&self, process: ProcessId) -> Result<ContainerId, RequestError> {
        self.ready()?;
        let known = self.processes.get(&process).ok_or(RequestError::UnknownProcess(process))?;
        Ok(known.container.clone())
    }

    /// The message that powers the machine off. No request is taken after it.
    ///
    /// # Errors
    ///
    /// Not ready.
    pub fn power_off(&mut self, now: Instant) -> Result<HostMessage, RequestError> {
        self.ready()?;
        self.power_off_until = Some(now + self.timeouts.power_off);
        Ok(HostMessage::PowerOff)
    }
}
