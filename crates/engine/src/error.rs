//! What goes wrong in a use case.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    keeper::wire::WireError, mounts::MountError, names::InvalidName, plan::PlanError, request::AcceleratorChoice,
};

/// An error of the engine. [`Error::hint`] says what the user can do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing says where the home is.
    #[error("there is no place for containers: neither HOME nor CORACLE_HOME is set")]
    NoHome,
    /// A file or directory of the home.
    #[error("cannot {action} {}", path.display())]
    Home {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The settings file.
    #[error("settings file {} cannot be used", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A part of the installation.
    #[error("the {part} is missing: {}", path.display())]
    MissingPart {
        /// Which.
        part: &'static str,
        /// Where it should be.
        path: PathBuf,
    },
    /// Files of the host are wanted, and nothing serves them.
    #[error("bind mounts need virtiofsd, which was not found{}", named(.0.as_deref()))]
    NoFileDaemon(Option<PathBuf>),
    /// Something the host should always give.
    #[error("{0} failed")]
    Host(&'static str, #[source] io::Error),
    /// A request that cannot become a machine.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A name that no container can have.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A text that is no platform.
    #[error(transparent)]
    PlatformText(#[from] image::PlatformError),
    /// Images.
    #[error(transparent)]
    Image(#[from] image::ImageError),
    /// Registries.
    #[error(transparent)]
    Registry(#[from] registry::RegistryError),
    /// The user's credentials for registries.
    #[error(transparent)]
    Credentials(#[from] registry::CredentialsError),
    /// An image that is there, but for another platform than was asked for.
    #[error("image {image:?} is for {has}, not for {asked}")]
    Platform {
        /// As the request named it.
        image: String,
        /// Its platform.
        has: String,
        /// The request's.
        asked: String,
    },
    /// Records.
    #[error(transparent)]
    State(#[from] state::StateError),
    /// Mounts.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A volume of another size than was asked for.
    #[error("there is a volume {name} of {} already", crate::quantity::human_binary(*.size))]
    VolumeSize {
        /// The volume.
        name: String,
        /// Its size in bytes.
        size: u64,
    },
    /// A volume whose disk another machine has.
    #[error("volume {name} is in use by {}", holders(.by))]
    VolumeAttached {
        /// The volume.
        name: String,
        /// Names of the containers; none where they are gone and their machine is about to.
        by: Vec<String>,
    },
    /// Disks.
    #[error(transparent)]
    Volume(#[from] volume::VolumeError),
    /// KVM was asked for and cannot be had.
    #[error("KVM is not usable here: {reason}")]
    Kvm {
        /// Why, in words.
        reason: String,
        /// What can be done.
        hint: Option<String>,
    },
    /// The emulator cannot be had.
    #[error("emulation cannot be used")]
    Emulator(#[source] monitor::EmulatorError),
    /// The machine's processes could not be started.
    #[error("the machine cannot be launched")]
    Launch(#[from] monitor::LaunchError),
    /// The keeper could not be started.
    #[error("the container's keeper cannot be started")]
    KeeperStart(#[source] io::Error),
    /// The keeper does not answer.
    #[error("the keeper of container {id} does not answer")]
    Keeper {
        /// The container.
        id: String,
        /// Why.
        source: WireError,
    },
    /// The keeper speaks another version.
    #[error("the keeper of container {id} speaks version {theirs} of its protocol, this command speaks {ours}")]
    KeeperVersion {
        /// The container.
        id: String,
        /// The keeper's.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// The keeper refused.
    #[error("the keeper of container {id} refuses: {reason}")]
    Refused {
        /// The container.
        id: String,
        /// Why.
        reason: String,
    },
    /// A further process could not be started.
    #[error("{error}")]
    ExecFailed {
        /// As a shell has it: 127, 126, 125.
        code: u8,
        /// Why.
        error: String,
    },
    /// A container's files.
    #[error(transparent)]
    Files(#[from] crate::files::FilesError),
    /// It runs, and must not.
    #[error("container {0:?} is running")]
    Running(String),
    /// It does not run, and must.
    #[error("container {name:?} is not running: it is {state}")]
    NotRunning {
        /// Its name.
        name: String,
        /// Its state.
        state: state::ContainerState,
    },
    /// Its machine stands still, and must not.
    #[error("container {0:?} is paused")]
    Paused(String),
    /// Its machine does not stand still, and must.
    #[error("container {0:?} is not paused")]
    NotPaused(String),
    /// What the record says of a container cannot be read: another version wrote it.
    #[error("the record of container {name:?} cannot be read")]
    UnreadableSpec {
        /// The container.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
    /// What is not there.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// Why it is not there.
        reason: &'static str,
    },
    /// A filter that cannot be.
    #[error("invalid filter {key}={value}: {problem}")]
    Filter {
        /// What is filtered by.
        key: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with that.
        problem: String,
    },
    /// A restart policy for what is removed when it ends.
    #[error("container {0:?} is removed when it ends: it cannot have a restart policy")]
    UpdateAutoRemove(String),
    /// Work in the machine of a container at rest.
    #[error("cannot work on the disk of container {name:?}: {problem}")]
    Task {
        /// The container.
        name: String,
        /// Why.
        problem: String,
    },
    /// A log that is not kept.
    #[error("container {0:?} keeps no log: it was made with --log-driver none")]
    NoLog(String),
    /// A container that is to get the name that it has.
    #[error("container {0:?} has that name already")]
    SameName(String),
}

impl Error {
    /// An error with a file or directory of the home.
    #[must_use]
    pub fn home(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Home { action, path: path.to_owned(), source }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoHome => "set CORACLE_HOME to a directory of yours",
            Self::Home { source, .. } if source.kind() == io::ErrorKind::StorageFull => "free some space on that disk",
            Self::Settings { source, .. } => return settings_hint(source.as_ref()),
            Self::Home { .. } => "set CORACLE_HOME to a directory that you can write to",
            Self::MissingPart { .. } => {
                "build it with `cargo xtask build`, or set CORACLE_LIB to the directory that holds it"
            }
            Self::NoFileDaemon(_) => crate::file_daemon::ADVICE,
            Self::Image(error) => return error.hint(),
            Self::Registry(error) => return error.hint(),
            Self::State(error) => return error.hint(),
            Self::Volume(error) => return error.hint(),
            Self::Files(error) => return error.hint(),
            Self::Kvm { hint, .. } => {
                let emulate = format!("`--accel {}` needs no KVM", AcceleratorChoice::Emulated);
                return Some(hint.iter().chain([&emulate]).map(String::as_str).collect::<Vec<_>>().join("; "));
            }
            Self::Emulator(error) => return Some(error.hint().to_owned()),
            Self::Plan(PlanError::NoCommand(_)) => "name a command behind the image",
            Self::Plan(PlanError::TooLittleMemory(_)) => "give it more with `-m`",
            Self::Platform { .. } => "`coracle pull --platform` or `coracle load --platform` gets it for this platform",
            Self::KeeperVersion { .. } => "use the version of Coracle that started the container",
            Self::VolumeSize { .. } => "a volume keeps its size: choose another name, or remove it first",
            Self::VolumeAttached { .. } => {
                "a volume belongs to one machine at a time, or to several that all mount it read-only (`:ro`)"
            }
            Self::Running(_) => "`coracle rm -f` ends and removes it",
            Self::NotRunning { .. } => "`coracle start` starts it",
            Self::Paused(_) => "`coracle unpause` lets it go on",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

fn named(path: Option<&std::path::Path>) -> String {
    path.map(|path| format!(" at {}", path.display())).unwrap_or_default()
}

fn settings_hint(source: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<String> {
    let kind = source.downcast_ref::<io::Error>()?.kind();
    (kind == io::ErrorKind::NotADirectory).then(|| "CORACLE_HOME and --home must name a directory".to_owned())
}

fn holders(names: &[String]) -> String {
    match names {
        [] => "a machine that is about to end".to_owned(),
        [name] => format!("container {name}"),
        names => format!("containers {}", names.join(", ")),
    }
}

/// An error and its causes as one line, for records and for messages that carry text.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_one_line() {
        let error = Error::home("make", Path::new("/h"), io::Error::from_raw_os_error(13));
        assert_eq!(chain(&error), "cannot make /h: Permission denied (os error 13)");
        assert_eq!(error.hint().unwrap(), "set CORACLE_HOME to a directory that you can write to");
        let full = Error::home("write", Path::new("/h"), io::Error::from_raw_os_error(28));
        assert_eq!(full.hint().unwrap(), "free some space on that disk");
    }
}
