//! Volumes: made, listed, inspected, removed, and given to containers as disks.
//!
//! # Order
//!
//! ```text
//!   create   row ──▶ directory ──▶ disk, made durable before it has its name
//!   remove   row says "removing", where no container uses it ──▶ directory ──▶ row
//! ```
//!
//! So a crash leaves a row without a disk, which is made when it is next wanted, or a row that says "removing", which
//! the next command finishes ([`finish_removals`]). A directory without a row is never removed: somebody's data may be
//! all that is left after the records were lost, and a volume of that name finds it again.
//!
//! # Use
//!
//! A container uses its volumes from when it is made to when it is removed; that is a table of the records, and what
//! is used is not removed. A *machine* has a volume's disk while it runs: that is a lock on the file ([`volume::Volume`]),
//! and a second machine is refused with the name of the container that has it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use monitor::LaunchError;
use serde_json::{Value, json};
use state::{ContainerRecord, State, StateError, VolumeRecord};
use volume::Volume;

use crate::{
    Engine,
    error::Error,
    home::{self, Home},
    mounts::{self, MountError, VolumeMount},
    names, process,
};

/// What `volume create` is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateVolume {
    /// Its name; a random one if missing.
    pub name: Option<String>,
    /// Its driver: see [`mounts::check_driver`].
    pub driver: Option<String>,
    /// The driver's options, `NAME=VALUE`: `size=SIZE` is known.
    pub options: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Which volumes are wanted. What is empty wants all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeFilters {
    /// Parts of names, any of them.
    pub names: Vec<String>,
    /// Labels that are there, all of them, each with its value where one is given.
    pub labels: Vec<(String, Option<String>)>,
    /// Used by no container, or used by one.
    pub dangling: Option<bool>,
    /// Names of drivers, any of them.
    pub drivers: Vec<String>,
}

/// A volume with what its record does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its record.
    pub record: VolumeRecord,
    /// Its directory.
    pub directory: PathBuf,
    /// Bytes that it takes on disk: holes cost nothing.
    pub bytes: u64,
    /// Ids of the containers that use it, running or not.
    pub users: Vec<String>,
}

/// Volumes that were removed together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedVolumes {
    /// Their names.
    pub names: Vec<String>,
    /// Bytes on disk that are free now.
    pub bytes: u64,
}

/// A volume as a disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeDisk {
    /// The disk's file.
    pub path: PathBuf,
    /// Other machines may read it at the same time; this one does not write.
    pub shared: bool,
}

/// The only driver.
const DRIVER: &str = "block";

impl Engine {
    /// Makes a volume; one of that name that is there already is as good.
    ///
    /// # Errors
    ///
    /// [`Error::Mount`] for a bad name, driver or option, [`Error::VolumeSize`] where one of that name has another size
    /// than was asked for, and whatever keeps its disk from being made.
    pub fn create_volume(&self, request: &CreateVolume) -> Result<VolumeRecord, Error> {
        mounts::check_driver(request.driver.as_deref().unwrap_or(DRIVER))?;
        let mut size = None;
        for option in &request.options {
            size = Some(mounts::size_option(option)?);
        }
        let (name, anonymous) = match &request.name {
            Some(name) => (mounts::check_name(name)?, false),
            None => (names::new_id().map_err(|source| Error::Host("getting random numbers", source))?, true),
        };
        let wanted = volume::round(size.unwrap_or(volume::DEFAULT_SIZE))?;
        let mut record = VolumeRecord::new(name, wanted, process::wall_clock_ns());
        record.anonymous = anonymous;
        record.labels.clone_from(&request.labels);
        let option = |text: &String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        record.options = request.options.iter().filter_map(option).collect();
        let (record, new) = self.state().insert_volume(&record)?;
        if size.is_some() && record.size != wanted {
            return Err(Error::VolumeSize { name: record.name, size: record.size });
        }
        if let Err(error) = make_disk(self.home(), &record) {
            if new {
                let _ = remove(self.state(), self.home(), &record.name);
            }
            return Err(error);
        }
        Ok(record)
    }

    /// The volumes that are wanted, by name.
    ///
    /// # Errors
    ///
    /// [`Error::State`].
    pub fn volumes(&self, filters: &VolumeFilters) -> Result<Vec<VolumeInfo>, Error> {
        let mut found = Vec::new();
        for record in self.state().volumes()?.into_iter().filter(|record| !record.removing) {
            let volume = self.volume_info(record)?;
            if filters.match_volume(&volume) {
                found.push(volume);
            }
        }
        Ok(found)
    }

    /// A volume by name.
    ///
    /// # Errors
    ///
    /// [`Error::State`].
    pub fn volume(&self, name: &str) -> Result<VolumeInfo, Error> {
        self.volume_info(self.state().volume(name)?)
    }

    fn volume_info(&self, record: VolumeRecord) -> Result<VolumeInfo, Error> {
        let directory = self.home().volume(&record.name);
        let users = self.state().users_of_volume(&record.name)?;
        Ok(VolumeInfo { bytes: Volume::bytes_on_disk(&directory), directory, users, record })
    }

    /// A volume as `inspect` shows it: Docker's names, and what only Coracle has under `Coracle`.
    ///
    /// # Errors
    ///
    /// [`Error::State`].
    pub fn inspect_volume(&self, name: &str) -> Result<Value, Error> {
        let VolumeInfo { record, directory, bytes, users } = self.volume(name)?;
        let path = directory.join(volume::DISK_NAME);
        let attached = holders(self.state(), &path, &record.name, "");
        Ok(json!({
            "CreatedAt": crate::inspect::rfc3339(Some(record.created_at)),
            "Driver": DRIVER,
            "Labels": record.labels,
            "Mountpoint": directory,
            "Name": record.name,
            "Options": record.options,
            "Scope": "local",
            "UsageData": { "RefCount": users.len(), "Size": bytes },
            "Coracle": {
                "Disk": path,
                "Size": record.size,
                "SizeOnDisk": bytes,
                "Anonymous": record.anonymous,
                "UsedBy": users,
                "AttachedTo": attached,
            },
        }))
    }

    /// Removes a volume that no container uses. With `force`, one that is not there is fine.
    ///
    /// # Errors
    ///
    /// [`StateError::VolumeInUse`], [`StateError::NoSuchVolume`], [`Error::VolumeAttached`].
    pub fn remove_volume(&self, name: &str, force: bool) -> Result<(), Error> {
        match remove(self.state(), self.home(), name) {
            Err(Error::State(StateError::NoSuchVolume { .. })) if force => Ok(()),
            removed => removed,
        }
    }

    /// Removes the volumes that no container uses: those that nobody named, or `all`.
    ///
    /// # Errors
    ///
    /// Whatever keeps one's files from being removed. What was removed by then stays removed.
    pub fn prune_volumes(&self, all: bool, filters: &VolumeFilters) -> Result<PrunedVolumes, Error> {
        let mut pruned = PrunedVolumes::default();
        for volume in self.volumes(filters)? {
            if !volume.users.is_empty() || !(all || volume.record.anonymous) {
                continue;
            }
            match self.remove_volume(&volume.record.name, true) {
                Ok(()) => {
                    pruned.names.push(volume.record.name);
                    pruned.bytes += volume.bytes;
                }
                // Somebody was faster.
                Err(Error::State(StateError::VolumeInUse { .. }) | Error::VolumeAttached { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pruned)
    }

    /// Has the container `id`, whose record is there, use its volumes; those that are missing are made.
    ///
    /// # Errors
    ///
    /// [`Error::State`], and whatever keeps a disk from being made.
    pub(crate) fn use_volumes(&self, id: &str, mounts: &[VolumeMount]) -> Result<(), Error> {
        if mounts.is_empty() {
            return Ok(());
        }
        let wanted = mounts.iter().map(record_of).collect::<Result<Vec<_>, _>>()?;
        for (record, _) in self.state().use_volumes(id, &wanted)? {
            make_disk(self.home(), &record)?;
        }
        Ok(())
    }

    /// The disks of the volumes of the container `id`, for the machine that is about to start. A disk that is missing is made.
    ///
    /// # Errors
    ///
    /// [`Error::VolumeAttached`] where another machine has one in a way that forbids this, [`Error::Mount`] for more
    /// volumes than `most`.
    pub(crate) fn volume_disks(&self, id: &str, mounts: &[VolumeMount], most: usize) -> Result<Vec<VolumeDisk>, Error> {
        if mounts.len() > most {
            return Err(MountError::TooMany { asked: mounts.len(), most }.into());
        }
        mounts.iter().map(|mount| self.volume_disk(id, mount)).collect()
    }

    fn volume_disk(&self, id: &str, mount: &VolumeMount) -> Result<VolumeDisk, Error> {
        let path = make_disk(self.home(), &self.state().volume(&mount.volume)?)?;
        let attached = |by| Error::VolumeAttached { name: mount.volume.clone(), by };
        let shared = mount.read_only && !Volume::needs_writing(&path)?;
        // The machine takes the lock for itself; this only finds out early, and with names.
        match Volume::try_lock(&path, shared)? {
            Some(_) => Ok(VolumeDisk { path, shared }),
            None => Err(attached(holders(self.state(), &path, &mount.volume, id))),
        }
    }
}

impl VolumeFilters {
    fn match_volume(&self, VolumeInfo { record, users, .. }: &VolumeInfo) -> bool {
        let any = |wanted: &[String], test: &dyn Fn(&str) -> bool| wanted.is_empty() || wanted.iter().any(|w| test(w));
        let label = |(name, value): &(String, Option<String>)| {
            record.labels.get(name).is_some_and(|has| value.as_ref().is_none_or(|value| has == value))
        };
        any(&self.names, &|part| record.name.contains(part))
            && any(&self.drivers, &|driver| driver == DRIVER)
            && self.labels.iter().all(label)
            && self.dangling.is_none_or(|dangling| dangling == users.is_empty())
    }
}

/// What a launch that failed says of a volume: who has it, where it is that.
pub(crate) fn explain(home: &Home, me: &str, error: LaunchError) -> Error {
    let LaunchError::DiskBusy { path } = &error else { return error.into() };
    let directory = path.parent().unwrap_or(path);
    let name = directory.file_name().and_then(|name| name.to_str());
    match (name, State::open(&home.database())) {
        (Some(name), Ok(state)) if directory == home.volume(name) => {
            Error::VolumeAttached { name: name.to_owned(), by: holders(&state, path, name, me) }
        }
        _ => error.into(),
    }
}

fn record_of(mount: &VolumeMount) -> Result<VolumeRecord, Error> {
    let size = volume::round(mount.size.unwrap_or(volume::DEFAULT_SIZE))?;
    let mut record = VolumeRecord::new(mount.volume.clone(), size, process::wall_clock_ns());
    record.anonymous = mount.anonymous;
    record.labels.clone_from(&mount.labels);
    if let Some(size) = mount.size {
        record.options.insert("size".to_owned(), size.to_string());
    }
    Ok(record)
}

fn make_disk(home: &Home, record: &VolumeRecord) -> Result<PathBuf, Error> {
    let directory = home.volume(&record.name);
    home::make_private(&directory).map_err(|source| Error::home("make", &directory, source))?;
    Ok(Volume::ensure(&home.data, &directory, record.size)?)
}

/// Names of the containers other than `me` whose machines may have the disk right now; none where nobody has it.
fn holders(state: &State, path: &Path, volume: &str, me: &str) -> Vec<String> {
    if matches!(Volume::try_lock(path, false), Ok(Some(_)) | Err(_)) {
        return Vec::new();
    }
    let users = state.users_of_volume(volume).unwrap_or_default();
    let others = users.iter().filter(|id| *id != me).filter_map(|id| state.container(id).ok());
    let kept: Vec<_> = others.filter(|container| container.keeper.is_some()).collect();
    // One that a command has to itself has no machine yet, or is about to lose it.
    let names = |kept: &mut dyn Iterator<Item = &ContainerRecord>| kept.map(|kept| kept.name.clone()).collect();
    let sure: Vec<String> = names(&mut kept.iter().filter(|container| container.claim.is_none()));
    if sure.is_empty() { names(&mut kept.iter()) } else { sure }
}

/// Removes a volume, or finishes to.
fn remove(state: &State, home: &Home, name: &str) -> Result<(), Error> {
    let directory = home.volume(name);
    let path = directory.join(volume::DISK_NAME);
    // A machine may outlive its container's record for a moment.
    let lock = if path.exists() { Some(Volume::try_lock(&path, false)?) } else { None };
    if matches!(lock, Some(None)) && state.users_of_volume(name)?.is_empty() {
        return Err(Error::VolumeAttached { name: name.to_owned(), by: Vec::new() });
    }
    state.begin_volume_removal(name)?;
    home::remove_directory(&directory).map_err(|source| Error::home("remove", &directory, source))?;
    state.forget_volume(name)?;
    Ok(())
}

/// Finishes removals that were begun by commands that died. What cannot be removed now is left to the next command.
///
/// # Errors
///
/// [`Error::State`].
pub(crate) fn finish_removals(state: &State, home: &Home) -> Result<(), Error> {
    for record in state.volumes()?.iter().filter(|record| record.removing) {
        let _ = remove(state, home, &record.name);
    }
    Ok(())
}

/// The volumes that nobody named and that a container alone uses: what goes with it, where that is asked for. To be
/// asked while its record is there.
pub(crate) fn own_volumes(state: &State, container: &str) -> Vec<String> {
    let volumes = state.volumes_of(container).unwrap_or_default();
    volumes.into_iter().filter(|volume| volume.anonymous).map(|volume| volume.name).collect()
}

/// Removes volumes that went with their container; those that another uses stay.
pub(crate) fn remove_own(state: &State, home: &Home, names: &[String]) {
    for name in names {
        // What stays is found by `volume prune`.
        let _ = remove(state, home, name);
    }
}

#[cfg(test)]
mod tests;
