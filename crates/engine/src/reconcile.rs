//! What every command does first: finds containers whose keeper died without a word, says so in their records,
//! and removes what nobody owns any more.
//!
//! A record names the process that is responsible for it: from its insertion the command that makes it, from its
//! launch its keeper. A responsible process that is gone while the record says `created` or `running` is a
//! crash. Files are told by their names: a directory below `containers` that no record names is a leftover,
//! because a record is written before its directories and removed after them.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use state::{ContainerRecord, ContainerState, State};

use crate::{
    ending::{Ending, Reason, UNSEEN},
    error::Error,
    home::{self, Home},
    keeper::record,
    process, volumes,
};

/// Most time that is given to a killed machine to let go of its disk.
const MACHINE_PATIENCE: Duration = Duration::from_secs(2);

/// Brings records and files in line with what really runs.
///
/// # Errors
///
/// [`Error::State`] and [`Error::Home`] when the home cannot be read or written.
pub fn reconcile(state: &State, home: &Home) -> Result<(), Error> {
    let boot_id = process::boot_id().map_err(|source| Error::Host("reading the boot id", source))?;
    let containers = state.containers()?;
    for container in &containers {
        if is_abandoned(container, &boot_id) {
            bury(state, home, container, &boot_id)?;
        }
    }
    later(volumes::finish_removals(state, home))?;
    sweep(state, &home.containers())?;
    sweep(state, &home.run_containers())
}

fn is_abandoned(container: &ContainerRecord, boot_id: &str) -> bool {
    let lives = container.state != ContainerState::Exited;
    lives && container.keeper.as_ref().is_some_and(|keeper| !process::is_alive(keeper, boot_id))
}

/// Ends the record of a container that nobody keeps.
fn bury(state: &State, home: &Home, container: &ContainerRecord, boot_id: &str) -> Result<(), Error> {
    if let Some(machine) = &container.machine {
        process::kill(machine, boot_id);
        let deadline = Instant::now() + MACHINE_PATIENCE;
        while process::is_alive(machine, boot_id) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let ending = ending_of(container, boot_id);
    let keeper = container.keeper.clone();
    let written = state.update_container(&container.id, |record| {
        // Unless another command was faster and the container is kept again.
        if record.keeper == keeper {
            record::write_ending(record, &ending);
        }
    });
    match written {
        Ok(record) if record.state != ContainerState::Exited => Ok(()),
        Ok(_) if container.auto_remove => match record::remove_with_volumes(state, home, &container.id) {
            Err(Error::State(state::StateError::NoSuchContainer { .. })) => Ok(()),
            removed => removed,
        },
        Ok(_) => {
            let directory = home.run_container(&container.id);
            home::remove_directory(&directory).map_err(|source| Error::home("remove", &directory, source))
        }
        Err(state::StateError::StaleTransition { .. } | state::StateError::NoSuchContainer { .. }) => Ok(()),
        // Its own files may be what fills the disk, and a keeper that has run it is the only one it can have.
        Err(state::StateError::NoSpace { .. }) if container.auto_remove && container.state.is_live() => {
            later(record::remove_with_volumes(state, home, &container.id))
        }
        // Lists and removals must work on a full disk: they are the way out of it.
        Err(error) => later(Err(error.into())),
    }
}

/// What a full disk does not take is left for a later command.
fn later(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::State(state::StateError::NoSpace { .. })) => Ok(()),
        result => result,
    }
}

fn ending_of(container: &ContainerRecord, boot_id: &str) -> Ending {
    let rebooted = container.keeper.as_ref().is_some_and(|keeper| keeper.boot_id != boot_id);
    let (reason, text) = match (rebooted, container.state) {
        (true, _) => (Reason::HostRebooted, "the host went down while the container ran"),
        (false, state) if state.is_live() => {
            (Reason::KeeperKilled, "the container's keeper died, and its machine with it")
        }
        (false, _) => (Reason::KeeperKilled, "whoever started the container died before it ran"),
    };
    Ending {
        reason,
        exit_code: UNSEEN,
        error: Some(text.to_owned()),
        oom_killed: false,
        kernel_log: None,
        timings: container.timings.as_ref().and_then(|t| serde_json::from_value(t.clone()).ok()).unwrap_or_default(),
    }
}

/// Removes the directories below `parent` that no record names.
fn sweep(state: &State, parent: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::home("read", parent, source)),
    };
    // Listed first, looked up afterwards: a record is older than its directory.
    let names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    for name in names {
        let known = name.to_str().map(|id| state.container(id).map(|record| record.id == id));
        let is_leftover = match known {
            Some(Ok(is_its_own)) => !is_its_own,
            Some(Err(state::StateError::NoSuchContainer { .. } | state::StateError::Ambiguous { .. })) | None => true,
            Some(Err(error)) => return Err(error.into()),
        };
        if is_leftover {
            let path = parent.join(&name);
            home::remove_directory(&path).map_err(|source| Error::home("remove", &path, source))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
