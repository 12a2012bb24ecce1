//! What every command does first: finds containers whose keeper died without a word, says so in their records,
//! and removes what nobody owns any more.
//!
//! A record names the process that is responsible for it: the command that has claimed it, to make, start or remove
//! it, or its keeper from its launch to its end. A responsible process that is gone is a crash, whatever the state of
//! the container; what it left undone is done. Files are told by their names: a directory below `containers` that no record names is a leftover,
//! because a record is written before its directories and removed after them.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;
use state::{Claim, ContainerRecord, State, StateError};

use crate::{
    ending::{Ending, Reason, UNSEEN},
    error::Error,
    home::{self, Home},
    host_limits,
    keeper::record,
    process, volumes,
};

/// Most time that is given to a killed machine to let go of its disk.
const MACHINE_PATIENCE: Duration = Duration::from_secs(2);

/// Something that was put right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// What: a stable word.
    pub what: RepairKind,
    /// The container, or the name of what was left over.
    pub id: String,
    /// What was done about it.
    pub done: String,
}

/// What there is to put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RepairKind {
    /// A container whose keeper was gone.
    DeadKeeper,
    /// A container that a command had claimed that was gone.
    DeadCommand,
    /// A directory that no record names.
    LeftoverDirectory,
}

/// Brings records and files in line with what really runs. Returns what was put right.
///
/// # Errors
///
/// [`Error::State`] and [`Error::Home`] when the home cannot be read or written.
pub fn reconcile(state: &State, home: &Home) -> Result<Vec<Repair>, Error> {
    let boot_id = process::boot_id().map_err(|source| Error::Host("reading the boot id", source))?;
    let containers = state.containers()?;
    let mut repairs = Vec::new();
    for container in &containers {
        if is_abandoned(container, &boot_id) {
            repairs.extend(settle(state, home, container, &boot_id)?);
        }
    }
    later(volumes::finish_removals(state, home).map(|()| None))?;
    sweep(state, &home.containers(), &mut repairs)?;
    sweep(state, &home.run_containers(), &mut repairs)?;
    Ok(repairs)
}

fn is_abandoned(container: &ContainerRecord, boot_id: &str) -> bool {
    container.keeper.as_ref().is_some_and(|keeper| !process::is_alive(keeper, boot_id))
}

/// Does what the process that is gone left undone.
///
/// | claimed to | left |
/// |---|---|
/// | be made | nothing that anybody has heard of: it is removed |
/// | be removed | half of it: the rest goes |
/// | have its files read or written | it as it was: it is free again |
/// | be started, or kept | a container that has ended |
fn settle(state: &State, home: &Home, container: &ContainerRecord, boot_id: &str) -> Result<Option<Repair>, Error> {
    let id = &container.id;
    let repair = |what, done: &str| Some(Repair { what, id: id.clone(), done: done.to_owned() });
    match container.claim {
        Some(Claim::Create | Claim::Remove) => {
            remove(state, home, id)?;
            Ok(repair(RepairKind::DeadCommand, "removed, as was begun"))
        }
        Some(Claim::Files) => {
            let holder = container.keeper.as_ref();
            holder.map_or(Ok(()), |holder| later_state(state.release(id, holder)))?;
            Ok(repair(RepairKind::DeadCommand, "free again"))
        }
        Some(Claim::Start) => {
            let done = bury(state, home, container, boot_id)?;
            Ok(done.and_then(|done| repair(RepairKind::DeadCommand, done)))
        }
        None => {
            let done = bury(state, home, container, boot_id)?;
            Ok(done.and_then(|done| repair(RepairKind::DeadKeeper, done)))
        }
    }
}

/// Ends the record of a container that nobody keeps. `None`: another command was faster, or the disk is full.
fn bury(state: &State, home: &Home, container: &ContainerRecord, boot_id: &str) -> Result<Option<&'static str>, Error> {
    if let Some(machine) = &container.machine {
        process::kill(machine, boot_id);
        let deadline = Instant::now() + MACHINE_PATIENCE;
        while process::is_alive(machine, boot_id) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    host_limits::release(home, &container.id);
    let ending = ending_of(container, boot_id);
    let bury = || {
        state.update_container(&container.id, |record| {
            // Unless another command was faster and the container is kept again.
            if record.keeper == container.keeper {
                // Within the transaction: as soon as it is over, the next keeper may listen there. What cannot be removed
                // is in the way of that one, which says so.
                let _ = home::remove_directory(&home.run_container(&container.id));
                record::write_ending(record, &ending);
            }
        })
    };
    let written = match bury() {
        // Its own files may be what fills the disk.
        Err(StateError::NoSpace { .. }) if container.auto_remove => {
            let directory = home.container(&container.id);
            home::remove_directory(&directory).map_err(|source| Error::home("remove", &directory, source))?;
            bury()
        }
        written => written,
    };
    match written {
        Ok(record) if record.keeper.is_some() => Ok(None),
        Ok(_) if container.auto_remove => {
            remove(state, home, &container.id)?;
            Ok(Some("ended, and removed as was asked for"))
        }
        Ok(_) => Ok(Some("ended")),
        Err(StateError::NoSuchContainer { .. }) => Ok(None),
        // Lists and removals must work on a full disk: they are the way out of it.
        Err(error) => later(Err(error.into())),
    }
}

fn remove(state: &State, home: &Home, id: &str) -> Result<(), Error> {
    match record::remove_with_volumes(state, home, id) {
        Err(Error::State(StateError::NoSuchContainer { .. })) => Ok(()),
        removed => later(removed.map(|()| None)).map(drop),
    }
}

/// What a full disk does not take is left for a later command.
fn later(result: Result<Option<&'static str>, Error>) -> Result<Option<&'static str>, Error> {
    match result {
        Err(Error::State(StateError::NoSpace { .. })) => Ok(None),
        result => result,
    }
}

fn later_state(result: Result<(), StateError>) -> Result<(), Error> {
    later(result.map(|()| None).map_err(Error::from)).map(drop)
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
fn sweep(state: &State, parent: &Path, repairs: &mut Vec<Repair>) -> Result<(), Error> {
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
            Some(Err(StateError::NoSuchContainer { .. } | StateError::Ambiguous { .. })) | None => true,
            Some(Err(error)) => return Err(error.into()),
        };
        if is_leftover {
            let path = parent.join(&name);
            home::remove_directory(&path).map_err(|source| Error::home("remove", &path, source))?;
            repairs.push(Repair {
                what: RepairKind::LeftoverDirectory,
                id: name.to_string_lossy().into_owned(),
                done: format!("{} removed", path.display()),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
