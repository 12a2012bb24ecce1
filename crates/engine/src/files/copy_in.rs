//! An archive unpacked in a container: by guest init, in the container's own mount namespace.
//!
//! ```text
//!  running     a further process of its machine, which is not the container's own program but the task
//!  not live    a machine of its own for the task alone; the container's record knows nothing of it
//! ```

use std::io::Read;
use std::thread;

use protocol::{ProcessSpec, Task, TerminalSize};
use state::StateError;

use super::CopyInOptions;
use super::error::FilesError;
use super::members;
use crate::{
    Engine,
    create::Spec,
    error::Error,
    keeper::wire::{self, AttachedStreams},
    names, plan,
};

/// Most bytes of what a task says about what is wrong.
const SAID: u64 = 4096;

/// What became of a task.
#[derive(Debug)]
struct Outcome {
    /// Whether its input could be made, and was taken.
    fed: Result<(), FilesError>,
    /// What it said on standard error.
    said: String,
    /// Its exit code.
    code: u8,
}

impl Engine {
    /// Unpacks a tar archive in a directory of a container, which must be there; symbolic links on the way to it are
    /// followed. What is in the way of a member is replaced.
    ///
    /// # Errors
    ///
    /// Where there is no such container, what is wrong with the archive, and what the container's kernel says.
    pub fn copy_in(
        &self,
        name: &str,
        path: &str,
        options: &CopyInOptions,
        archive: &mut dyn Read,
    ) -> Result<(), Error> {
        let id = self.container(name)?.id;
        let task = Task::Unpack {
            directory: format!("/{}", path.trim_start_matches('/')),
            no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir,
        };
        match self.unpack_at_rest(&id, &task, archive) {
            Err(Error::State(StateError::ContainerRunning { .. })) => self.unpack_live(&id, task, archive)?,
            result => result?,
        }
        if let Ok(record) = self.container(&id) {
            self.tell_of_files(&record, "copy", &[("path", path.to_owned())]);
        }
        Ok(())
    }

    /// By a machine for that alone, of a container that does not live. Nothing of the archive is read where it does.
    fn unpack_at_rest(&self, id: &str, task: &Task, archive: &mut dyn Read) -> Result<(), Error> {
        let mut fed = Ok(());
        let ended = self.run_task(id, task, &mut |stdin| {
            fed = members::hand_on(archive, stdin);
            Ok(())
        })?;
        self.unpacked(&self.container(id)?.name, Outcome { fed, said: ended.errors, code: ended.code })
    }

    /// As a further process of a container that runs.
    fn unpack_live(&self, name: &str, task: Task, archive: &mut dyn Read) -> Result<(), Error> {
        let (record, connection) = self.reach_running(name)?;
        let mut exec = connection.exec(wire::Exec {
            id: names::new_id().map_err(|source| Error::Host("getting random numbers", source))?,
            process: process(&Spec::of(&record)?, task)?,
            tty: false,
            streams: AttachedStreams { stdin: true, stdout: false, stderr: true },
            size: TerminalSize::default(),
            detach: false,
        })?;
        let pipes = exec.take_pipes();
        let (fed, said) = thread::scope(|scope| {
            let said = pipes.stderr.map(|stderr| scope.spawn(move || read_said(stderr)));
            let fed = pipes.stdin.map_or(Ok(()), |mut stdin| members::hand_on(archive, &mut stdin));
            (fed, said.and_then(|said| said.join().ok()).unwrap_or_default())
        });
        let code = exec.wait()?.unwrap_or(1);
        self.unpacked(&record.name, Outcome { fed, said, code })
    }

    fn unpacked(&self, container: &str, outcome: Outcome) -> Result<(), Error> {
        match (outcome.fed, outcome.code) {
            (Ok(()), 0) => Ok(()),
            // What it did not take it says itself.
            (Ok(()) | Err(FilesError::Write(_)), _) => {
                let problem = outcome.said.trim().to_owned();
                let problem = if problem.is_empty() { format!("exit code {}", outcome.code) } else { problem };
                Err(FilesError::Unpack { container: container.to_owned(), problem }.into())
            }
            (Err(error), _) => Err(error.into()),
        }
    }
}

/// What a task says about what is wrong. All of it is read, some of it kept; it is text from the container.
fn read_said(from: impl Read) -> String {
    let mut said = Vec::new();
    let mut from = from.take(u64::MAX);
    let _ = from.by_ref().take(SAID).read_to_end(&mut said);
    let _ = std::io::copy(&mut from, &mut std::io::sink());
    String::from_utf8_lossy(&said).chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

/// The container's own process, but for what it does.
fn process(spec: &Spec, task: Task) -> Result<ProcessSpec, Error> {
    Ok(ProcessSpec { task, init: false, seccomp: None, ..plan::process_spec(&spec.request, &spec.resolved)? })
}
