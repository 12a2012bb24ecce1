//! What a keeper writes into its container's record.

use std::path::Path;

use monitor::{MachineProcess, Role};
use state::{ContainerState, ProcessRef, State, StateError};

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

    /// The keeper is responsible from now on, and these are its machine's processes.
    pub(super) fn take_over(&self, processes: &[MachineProcess]) -> Result<(), Error> {
        let keeper = process::current().map_err(|source| Error::Host("reading /proc", source))?;
        let machine = processes.iter().find(|process| process.role != Role::Devices).map(|process| ProcessRef {
            pid: process.pid,
            start_time: process.start_time,
            boot_id: keeper.boot_id.clone(),
        });
        self.state()?.transition(&self.launch.id, &[ContainerState::Created, ContainerState::Exited], |record| {
            record.keeper = Some(keeper);
            record.claim = None;
            record.machine = machine;
        })?;
        Ok(())
    }

    /// The process runs.
    pub(super) fn started(&self) -> Result<(), Error> {
        self.state()?.transition(&self.launch.id, &[ContainerState::Created, ContainerState::Exited], |record| {
            record.state = ContainerState::Running;
            record.started_at = Some(process::wall_clock_ns());
            record.finished_at = None;
            record.exit_code = None;
            record.reason = None;
            record.error = None;
        })?;
        Ok(())
    }

    /// The container has ended. With `remove`, nothing of it stays.
    pub(super) fn ended(&self, ending: &Ending, remove: bool) -> Result<(), Error> {
        end(&self.launch.home, &self.launch.id, ending, remove)
    }
}

/// Records an end. What is to be removed goes first: on a disk that the container has filled, its own files
/// are the space that the record needs.
fn end(home: &home::Home, id: &str, ending: &Ending, remove: bool) -> Result<(), Error> {
    if remove {
        let directory = home.container(id);
        home::remove_directory(&directory).map_err(|source| Error::home("remove", &directory, source))?;
    }
    let state = State::open(&home.database())?;
    state.update_container(id, |record| write_ending(record, ending))?;
    if remove { remove_with_volumes(&state, home, id) } else { remove_run_directory(&home.run_container(id)) }
}

/// Puts an ending into a record.
pub(crate) fn write_ending(record: &mut state::ContainerRecord, ending: &Ending) {
    record.state = ContainerState::Exited;
    record.finished_at = Some(process::wall_clock_ns());
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
