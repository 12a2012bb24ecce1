//! Running a further process in a container.

use protocol::{Capabilities, ProcessSpec, TerminalSize};

use crate::{
    Engine, capability,
    create::Spec,
    environment,
    error::Error,
    keeper::{
        client::{Control, Pipes, RunningExec},
        wire::{self, AttachedStreams},
    },
    names,
    plan::{self, PlanError},
};

/// A process to run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Entries beside those of the container's own process, as [`crate::environment`] has them.
    pub env: Vec<String>,
    /// `USER[:GROUP]`; that of the container's process if missing.
    pub user: Option<String>,
    /// Working directory; that of the container's process if missing.
    pub working_dir: Option<String>,
    /// A terminal.
    pub tty: bool,
    /// All capabilities.
    pub privileged: bool,
    /// Nobody waits for it.
    pub detach: bool,
}

/// How it is run, apart from what it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExecOptions {
    /// Streams to connect.
    pub streams: AttachedStreams,
    /// Size of the terminal.
    pub terminal_size: TerminalSize,
}

/// A process that runs in a container.
#[derive(Debug)]
pub struct Exec {
    /// Its id.
    pub id: String,
    running: RunningExec,
}

impl Engine {
    /// Runs a process in a container. Returns when it runs.
    ///
    /// # Errors
    ///
    /// [`Error::ExecFailed`] with the exit code that says what is wrong with it, [`Error::NotRunning`],
    /// [`Error::Paused`], [`Error::Plan`], [`Error::Refused`], [`Error::Keeper`].
    pub fn exec(&self, name: &str, request: &ExecRequest, options: &ExecOptions) -> Result<Exec, Error> {
        let (record, connection) = self.reach_running(name)?;
        let process = process(&Spec::of(&record)?, request)?;
        let id = names::new_id().map_err(|source| Error::Host("getting random numbers", source))?;
        let streams = if request.detach { AttachedStreams::default() } else { options.streams };
        let running = connection.exec(wire::Exec {
            id: id.clone(),
            process,
            tty: request.tty,
            streams,
            size: options.terminal_size,
            detach: request.detach,
        })?;
        Ok(Exec { id, running })
    }
}

impl Exec {
    /// For signals, sizes and the like while somebody waits.
    #[must_use]
    pub fn control(&self) -> Control {
        self.running.control()
    }

    /// Takes the streams.
    #[must_use]
    pub fn take_pipes(&mut self) -> Pipes {
        self.running.take_pipes()
    }

    /// Waits for its exit code, as a shell has it. `None`: it was let go by [`Control::detach`].
    ///
    /// # Errors
    ///
    /// [`Error::Keeper`] when the keeper died.
    pub fn wait(self) -> Result<Option<u8>, Error> {
        self.running.wait()
    }
}

/// The container's own process with what the request has in its place.
fn process(spec: &Spec, request: &ExecRequest) -> Result<ProcessSpec, PlanError> {
    let program = request.command.first().ok_or_else(|| PlanError::NoCommand(spec.request.image.clone()))?;
    if program.is_empty() {
        return Err(PlanError::EmptyProgram);
    }
    let user = request.user.clone().filter(|user| !user.is_empty());
    let texts = request.command.iter().chain(&user).chain(&request.working_dir);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(PlanError::Nul("command"));
    }
    let own = plan::process_spec(&spec.request, &spec.resolved)?;
    let bytes = |words: &[String]| words.iter().map(|word| word.clone().into_bytes()).collect::<Vec<_>>();
    let mut env = spec.resolved.env.clone();
    if request.tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    let bounding = if request.privileged { capability::ALL } else { own.capabilities.bounding };
    Ok(ProcessSpec {
        argv: bytes(&request.command),
        env: bytes(&environment::merge(env, &request.env)),
        cwd: request.working_dir.clone().unwrap_or(own.cwd),
        // Groups that were added belong to the container's own user.
        additional_groups: if user.is_some() { Vec::new() } else { own.additional_groups },
        user: user.unwrap_or(own.user),
        capabilities: Capabilities { bounding },
        no_new_privileges: own.no_new_privileges && !request.privileged,
        seccomp: own.seccomp.filter(|_| !request.privileged),
        init: false,
        ..own
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::{Host, ImageDefaults},
        request::RunRequest,
    };

    fn spec() -> Spec {
        let request = RunRequest {
            image: "boat".into(),
            command: vec!["sh".into()],
            env: vec!["A=1".into(), "B=2".into()],
            user: Some("77".into()),
            groups: vec!["5".into()],
            working_dir: Some("/srv".into()),
            init: true,
            ..RunRequest::default()
        };
        let host = Host {
            cpus: 4,
            memory: 8 << 30,
            wall_clock: std::time::Duration::ZERO,
            resolv_conf: String::new(),
            upstream_resolv_conf: None,
        };
        let resolved = plan::resolve(&"a".repeat(64), &request, &ImageDefaults::default(), &host).unwrap();
        Spec { request, resolved, accelerator: monitor::Accelerator::Emulated, launched: None }
    }

    fn words(words: &[Vec<u8>]) -> Vec<String> {
        words.iter().map(|word| String::from_utf8(word.clone()).unwrap()).collect()
    }

    #[test]
    fn a_process_is_as_the_containers_own() {
        let request =
            ExecRequest { command: vec!["id".into()], env: vec!["B".into(), "C=3".into()], ..Default::default() };
        let process = process(&spec(), &request).unwrap();
        assert_eq!((process.cwd.as_str(), process.user.as_str(), process.init), ("/srv", "77", false));
        assert_eq!(process.additional_groups, ["5"]);
        let env = words(&process.env);
        assert!(env.contains(&"A=1".into()) && env.contains(&"C=3".into()) && !env.contains(&"B=2".into()));
        assert_eq!(process.capabilities.bounding, capability::default_set());
    }

    #[test]
    fn or_as_it_is_asked_for() {
        let request = ExecRequest {
            command: vec!["id".into()],
            user: Some("0".into()),
            working_dir: Some("/".into()),
            tty: true,
            privileged: true,
            ..Default::default()
        };
        let process = process(&spec(), &request).unwrap();
        assert_eq!((process.cwd.as_str(), process.user.as_str()), ("/", "0"));
        assert!(process.additional_groups.is_empty());
        assert_eq!(process.capabilities.bounding, capability::ALL);
        assert!(words(&process.env).contains(&"TERM=xterm".into()));
    }

    #[test]
    fn what_is_no_command() {
        let exec = |command: &[&str]| ExecRequest {
            command: command.iter().map(ToString::to_string).collect(),
            ..ExecRequest::default()
        };
        assert!(matches!(process(&spec(), &exec(&[])), Err(PlanError::NoCommand(_))));
        assert!(matches!(process(&spec(), &exec(&[""])), Err(PlanError::EmptyProgram)));
        assert!(matches!(process(&spec(), &exec(&["a\0"])), Err(PlanError::Nul(_))));
    }
}
