//! `system check`: whether records, files and processes agree.
//!
//! Every command puts right what it finds ([`crate::reconcile`]); this says what that was, and looks for more than
//! others have the time for. What it finds beyond that it only tells of: a process or a file that nobody knows may be
//! somebody's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::Serialize;
use state::ContainerRecord;

use crate::{
    Engine,
    error::{Error, chain},
    keeper::client::Connection,
    process,
    reconcile::{self, Repair},
};

/// What a check found. The field names are the stable output of `system check --json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Check {
    /// How many containers there are.
    pub containers: usize,
    /// How many of them live.
    pub live: usize,
    /// What was put right.
    pub repaired: Vec<Repair>,
    /// What was not.
    pub problems: Vec<Problem>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What was looked at: a stable word.
    pub check: &'static str,
    /// The container, process or file.
    pub subject: String,
    /// What is wrong with it.
    pub found: String,
    /// What to do about it.
    pub advice: &'static str,
}

impl Engine {
    /// Looks at everything. Puts right what every command does.
    ///
    /// # Errors
    ///
    /// [`Error::State`] and [`Error::Home`] when the home cannot be read or written at all.
    pub fn check(&self) -> Result<Check, Error> {
        let mut repaired = self.repairs.clone();
        repaired.extend(reconcile::reconcile(self.state(), self.home())?);
        let containers = self.containers()?;
        let mut problems = Vec::new();
        for problem in self.state().integrity()? {
            let advice = "move the file and its -wal and -shm files away, then load the images again";
            problems.push(Problem { check: "records", subject: path(self.state().path()), found: problem, advice });
        }
        for container in &containers {
            problems.extend(self.disk_of(container));
            problems.extend(self.keeper_of(container));
        }
        problems.extend(self.strays(&containers));
        problems.extend(self.volumes_without_disks()?);
        let live = containers.iter().filter(|container| container.state.is_live()).count();
        Ok(Check { containers: containers.len(), live, repaired, problems })
    }

    /// A scratch disk that is not there, or not whole.
    fn disk_of(&self, container: &ContainerRecord) -> Option<Problem> {
        if container.claim.is_some() {
            return None;
        }
        let disk = self.home().container(&container.id).join(volume::SCRATCH_NAME);
        let error = volume::Scratch::check(&disk).err()?;
        let advice = "its files are lost; `coracle rm` removes what is left of it";
        Some(Problem { check: "scratch disk", subject: container.name.clone(), found: chain(&error), advice })
    }

    /// A keeper that lives and does not answer.
    fn keeper_of(&self, container: &ContainerRecord) -> Option<Problem> {
        if !container.state.is_live() {
            return None;
        }
        let error = Connection::open(&container.id, &self.home().control_socket(&container.id)).err()?;
        // It may have ended meanwhile.
        if !self.container(&container.id).is_ok_and(|now| now.state.is_live()) {
            return None;
        }
        let advice = "`coracle rm -f` ends it the hard way";
        Some(Problem { check: "keeper", subject: container.name.clone(), found: chain(&error), advice })
    }

    /// Processes that have files of a container open that does not live.
    fn strays(&self, containers: &[ContainerRecord]) -> Vec<Problem> {
        let at_rest: BTreeSet<&str> =
            containers.iter().filter(|record| record.keeper.is_none()).map(|record| record.id.as_str()).collect();
        let known: BTreeSet<&str> = containers.iter().map(|record| record.id.as_str()).collect();
        let parent = self.home().containers();
        let mut problems = Vec::new();
        for (pid, ids) in users_of(&parent) {
            let Some(id) = ids.iter().find(|id| at_rest.contains(id.as_str()) || !known.contains(id.as_str())) else {
                continue;
            };
            // It may have been started since the records were read.
            if self.container(id).is_ok_and(|now| now.keeper.is_some()) || process::start_time(pid).is_none() {
                continue;
            }
            problems.push(Problem {
                check: "processes",
                subject: format!("{} ({pid})", command_of(pid)),
                found: format!("has files open of container {}, which does not live", crate::names::short_id(id)),
                advice: "end it, if it is none of yours",
            });
        }
        problems
    }

    fn volumes_without_disks(&self) -> Result<Vec<Problem>, Error> {
        let volumes = self.state().volumes()?;
        let lost = volumes.into_iter().filter(|volume| !volume.removing && !self.home().volume(&volume.name).is_dir());
        Ok(lost
            .map(|volume| Problem {
                check: "volumes",
                found: format!("{} is not there", path(&self.home().volume(&volume.name))),
                subject: volume.name,
                advice: "its files are lost; `coracle volume rm` removes its record",
            })
            .collect())
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn command_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).map_or_else(|_| "?".to_owned(), |name| name.trim_end().to_owned())
}

/// Processes of this user that have files open below `parent`, each with the names right below it.
fn users_of(parent: &Path) -> BTreeMap<u32, BTreeSet<String>> {
    let own = rustix::process::geteuid().as_raw();
    let mut users = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() || (own != 0 && entry.metadata().map_or(true, |found| found.uid() != own)) {
            continue;
        }
        let names: BTreeSet<String> = open_files(pid).filter_map(|file| name_below(&file, parent)).collect();
        if !names.is_empty() {
            users.insert(pid, names);
        }
    }
    users
}

/// What a process has open, as far as it can be seen.
fn open_files(pid: u32) -> impl Iterator<Item = PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
}

fn name_below(file: &Path, parent: &Path) -> Option<String> {
    let name = file.strip_prefix(parent).ok()?.components().next()?;
    name.as_os_str().to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn names_are_those_right_below() {
        let name = |file: &str| name_below(Path::new(file), Path::new("/h/containers"));
        assert_eq!(name("/h/containers/aa/scratch.ext4").as_deref(), Some("aa"));
        assert_eq!(name("/h/containers/aa/log/1 (deleted)").as_deref(), Some("aa"));
        assert_eq!(name("/h/containers"), None);
        assert_eq!(name("/h/containers2/aa"), None);
    }

    #[test]
    fn whoever_has_a_file_open_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let parent = directory.path().canonicalize().unwrap();
        fs::create_dir(parent.join("aa")).unwrap();
        let file = fs::File::create(parent.join("aa/disk")).unwrap();
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::from(file)).spawn().unwrap();
        let users = users_of(&parent);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(users.get(&child.id()), Some(&BTreeSet::from(["aa".to_owned()])));
    }
}
