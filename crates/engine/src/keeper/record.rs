//! What a keeper writes into its container's record.

use std::path::Path;

use monitor::MachineProcess;
use serde_json::Value;
use state::{Claim, ContainerRecord, ContainerState, ProcessRef, State, StateError};

use super::Launch;
use crate::{ending::Ending, error::Error, home, process, volumes};

/// The keeper's pen. The database is opened for each change: a keeper that waits holds none of it.
#[derive(Debug)]
pub(super) struct Records<'a> {
    launch: &'a Launch,
}

impl<'a> Records<'a> {
    pub(super) fn new(launch: &'a Launch) -> Self {
        Self { launch }
    }

    fn state(&self) -> Result<State, StateError> {
        State::open(&self.launch.home.database())
    }

    /// Changes the record if it is in one of these states.
    fn transition(&self, from: &[ContainerState], change: impl FnOnce(&mut ContainerRecord)) -> Result<(), Error> {
        self.state()?.transition(&self.launch.id, from, change)?;
        Ok(())
    }

    /// The keeper is responsible from now on, and these are its machine's processes.
    pub(super) fn take_over(&self, processes: &[MachineProcess]) -> Result<(), Error> {
        let keeper = process::current().map_err(|source| Error::Host("reading /proc", source))?;
        let machine = machine(processes, &keeper.boot_id);
        self.transition(&[ContainerState::Created, ContainerState::Exited], |record| {
            record.keeper = Some(keeper);
            record.claim = None;
            record.machine = machine;
        })
    }

    /// There is a new machine.
    pub(super) fn relaunched(&self, processes: &[MachineProcess]) -> Result<(), Error> {
        let boot_id = process::boot_id().map_err(|source| Error::Host("reading the boot id", source))?;
        self.transition(&[ContainerState::Restarting], |record| record.machine = machine(processes, &boot_id))
    }

    /// The process runs.
    pub(super) fn started(&self, restarts: u32, health: Option<Value>) -> Result<(), Error> {
        let from = [ContainerState::Created, ContainerState::Exited, ContainerState::Restarting];
        self.transition(&from, |record| {
            record.state = ContainerState::Running;
            record.started_at = Some(process::wall_clock_ns());
            record.finished_at = None;
            record.exit_code = None;
            record.reason = None;
            record.error = None;
            record.restart_count = restarts;
            record.health = health;
            record.stopped_by_user = false;
            record.oom_killed = false;
        })
    }

    /// The process has ended, and will run again.
    pub(super) fn restarting(&self, ending: &Ending, restarts: u32) -> Result<(), Error> {
        let from = [ContainerState::Running, ContainerState::Paused, ContainerState::Restarting];
        self.transition(&from, |record| {
            let keeper = record.keeper.take();
            write_ending(record, ending);
            record.state = ContainerState::Restarting;
            record.keeper = keeper;
            record.restart_count = restarts;
        })
    }

    /// The machine stands still, or goes on.
    pub(super) fn paused(&self, paused: bool) -> Result<(), Error> {
        let (from, to) = if paused {
            (ContainerState::Running, ContainerState::Paused)
        } else {
            (ContainerState::Paused, ContainerState::Running)
        };
        self.transition(&[from], |record| record.state = to)
    }

    /// A check of its health ended. One that cannot be recorded is followed by others.
    pub(super) fn health(&self, health: Value) {
        let _ = self.transition(&[ContainerState::Running], |record| record.health = Some(health));
    }

    /// Whether its end is wished for by a user: that is recorded before it is over, and stays.
    pub(super) fn note_wish(&self, wished: bool) {
        if wished {
            // What cannot be recorded is no reason not to end.
            let _ = self.state().and_then(|state| {
                state.update_container(&self.launch.id, |record| record.stopped_by_user = true).map(drop)
            });
        }
    }

    /// A further process runs.
    pub(super) fn exec_started(&self, exec: &str) {
        self.exec_events(exec, &["exec_create", "exec_start"], None);
    }

    /// A further process ended.
    pub(super) fn exec_ended(&self, exec: &str, code: u8) {
        self.exec_events(exec, &["exec_die"], Some(code));
    }

    /// Events are not worth an end: those that cannot be written are lost.
    fn exec_events(&self, exec: &str, actions: &[&str], code: Option<u8>) {
        let mut attributes = vec![("execID", exec.to_owned())];
        attributes.extend(code.map(|code| ("exitCode", code.to_string())));
        let Ok(state) = self.state() else { return };
        let Ok(record) = state.container(&self.launch.id) else { return };
        for action in actions {
            let _ = state.container_event(&record, action, &attributes);
        }
    }

    /// The container has ended. With `remove`, nothing of it stays.
    pub(super) fn ended(&self, ending: &Ending, remove: bool) -> Result<(), Error> {
        end(&self.launch.home, &self.launch.id, ending, remove)
    }
}

/// The process that has the vCPUs.
fn machine(processes: &[MachineProcess], boot_id: &str) -> Option<ProcessRef> {
    processes.iter().find(|process| process.role.has_vcpus()).map(|process| ProcessRef {
        pid: process.pid,
        start_time: process.start_time,
        boot_id: boot_id.to_owned(),
    })
}

/// Records an end. What is to be removed goes first: on a disk that the container has filled, its own files
/// are the space that the record needs.
fn end(home: &home::Home, id: &str, ending: &Ending, remove: bool) -> Result<(), Error> {
    if remove {
        let directory = home.container(id);
        home::remove_directory(&directory).map_err(|source| Error::home("remove", &directory, source))?;
    }
    // While the container is still this keeper's: the next one listens in the same place.
    let free = remove_run_directory(&home.run_container(id));
    let state = State::open(&home.database())?;
    state.update_container(id, |record| {
        let keeper = record.keeper.clone();
        write_ending(record, ending);
        if remove {
            // Nobody starts it in between, and whoever finds it half removed knows what was meant.
            (record.keeper, record.claim) = (keeper, Some(Claim::Remove));
        }
    })?;
    if remove { remove_with_volumes(&state, home, id) } else { free }
}

/// Puts an ending into a record.
pub(crate) fn write_ending(record: &mut state::ContainerRecord, ending: &Ending) {
    // One that waits for its restart has ended already.
    if record.state != ContainerState::Restarting {
        record.finished_at = Some(process::wall_clock_ns());
    }
    record.state = ContainerState::Exited;
    record.exit_code = Some(i32::from(ending.exit_code));
    record.reason = Some(ending.reason.to_string());
    record.error.clone_from(&ending.error);
    record.kernel_log_tail.clone_from(&ending.kernel_log);
    record.timings =
        serde_json::to_value(TimingsAndMemory { timings: ending.timings, oom_killed: ending.oom_killed }).ok();
    record.oom_killed = ending.oom_killed;
    record.keeper = None;
    record.claim = None;
    record.machine = None;
}

/// What the record keeps under `timings`: the moments, and beside them what has no column of its own.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct TimingsAndMemory {
    #[serde(flatten)]
    pub(crate) timings: crate::timings::Timings,
    #[serde(default)]
    pub(crate) oom_killed: bool,
}

/// Removes a container: its files before the record that names them, so that a crash in between leaves a record
/// that can be removed again and never files that nothing names.
pub(crate) fn remove_container(state: &State, home: &home::Home, id: &str) -> Result<(), Error> {
    let directory = home.container(id);
    home::remove_directory(&directory).map_err(|source| Error::home("remove", &directory, source))?;
    remove_run_directory(&home.run_container(id))?;
    state.remove_container(id)?;
    Ok(())
}

/// Removes a container with the volumes that it has alone and that nobody named.
pub(crate) fn remove_with_volumes(state: &State, home: &home::Home, id: &str) -> Result<(), Error> {
    let own = volumes::own_volumes(state, id);
    remove_container(state, home, id)?;
    volumes::remove_own(state, home, &own);
    Ok(())
}

fn remove_run_directory(directory: &Path) -> Result<(), Error> {
    home::remove_directory(directory).map_err(|source| Error::home("remove", directory, source))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn container_that_filled_the_disk_gives_its_space_back_before_it_is_recorded() {
        let directory = tempfile::tempdir().unwrap();
        let home = home::Home { data: directory.path().join("data"), run: directory.path().join("run") };
        let id = "a".repeat(64);
        home::make_private(&home.container(&id)).unwrap();
        fs::write(home.container(&id).join("scratch.ext4"), "x").unwrap();
        // Records that cannot be written, as on a full disk.
        fs::create_dir_all(home.database()).unwrap();
        end(&home, &id, &Ending::engine_error("x".to_owned()), true).unwrap_err();
        assert!(!home.container(&id).exists());
    }
}
