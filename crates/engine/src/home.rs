//! Where Coracle keeps things on this host.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The two directories that Coracle owns: one that stays, one that a reboot empties.
///
/// | | data | run |
/// |---|---|---|
/// | `--home DIR`, `CORACLE_HOME=DIR` | `DIR/data` | `DIR/run` |
/// | root | `/var/lib/coracle` | `/run/coracle` |
/// | others | `$XDG_DATA_HOME/coracle` (`~/.local/share/coracle`) | `$XDG_RUNTIME_DIR/coracle` (`data/run` if unset) |
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// Images, disks, records.
    pub data: PathBuf,
    /// Sockets.
    pub run: PathBuf,
}

/// The variables that decide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `--home`, else `CORACLE_HOME`.
    pub home: Option<PathBuf>,
    /// Whether this is root.
    pub root: bool,
    /// `HOME`.
    pub user_home: Option<PathBuf>,
    /// `XDG_DATA_HOME`.
    pub data_home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub config_home: Option<PathBuf>,
}

/// An absolute path from a variable; the XDG specification has relative ones ignored.
fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

impl Environment {
    /// This process's. `home` is the value of `--home`.
    ///
    /// # Errors
    ///
    /// If a relative home cannot be made absolute because the current directory is gone.
    pub fn of_process(home: Option<PathBuf>) -> io::Result<Self> {
        let home = home.or_else(|| env::var_os("CORACLE_HOME").filter(|text| !text.is_empty()).map(PathBuf::from));
        Ok(Self {
            home: home.map(std::path::absolute).transpose()?,
            root: rustix::process::geteuid().is_root(),
            user_home: absolute("HOME"),
            data_home: absolute("XDG_DATA_HOME"),
            runtime_dir: absolute("XDG_RUNTIME_DIR"),
            config_home: absolute("XDG_CONFIG_HOME"),
        })
    }

    /// The home, or `None` when nothing says where it could be.
    #[must_use]
    pub fn home(&self) -> Option<Home> {
        if let Some(home) = &self.home {
            return Some(Home { data: home.join("data"), run: home.join("run") });
        }
        if self.root {
            return Some(Home { data: "/var/lib/coracle".into(), run: "/run/coracle".into() });
        }
        let data_home = self.data_home.clone().or_else(|| Some(self.user_home.as_ref()?.join(".local/share")))?;
        let data = data_home.join("coracle");
        let run = self.runtime_dir.as_ref().map_or_else(|| data.join("run"), |dir| dir.join("coracle"));
        Some(Home { data, run })
    }

    /// Where the settings file is looked for.
    #[must_use]
    pub fn settings_file(&self) -> Option<PathBuf> {
        if let Some(home) = &self.home {
            return Some(home.join("settings.json"));
        }
        if self.root {
            return Some("/etc/coracle/settings.json".into());
        }
        let config = self.config_home.clone().or_else(|| Some(self.user_home.as_ref()?.join(".config")))?;
        Some(config.join("coracle/settings.json"))
    }
}

impl Home {
    /// The database of records.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.data.join("state.db")
    }

    /// The directories of all containers' disks.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    /// The directory of a container's disks.
    #[must_use]
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// The directory of a volume.
    #[must_use]
    pub fn volume(&self, name: &str) -> PathBuf {
        self.data.join("volumes").join(name)
    }

    /// The directory of a container's log.
    #[must_use]
    pub fn log(&self, id: &str) -> PathBuf {
        self.container(id).join("log")
    }

    /// The directories of all containers' sockets.
    #[must_use]
    pub fn run_containers(&self) -> PathBuf {
        self.run.join("containers")
    }

    /// The directory of a container's sockets.
    #[must_use]
    pub fn run_container(&self, id: &str) -> PathBuf {
        self.run_containers().join(id)
    }

    /// The keeper's socket.
    #[must_use]
    pub fn control_socket(&self, id: &str) -> PathBuf {
        self.run_container(id).join("control.sock")
    }
}

/// Makes a directory and its parents for this user alone.
///
/// # Errors
///
/// If it cannot be made, or is there but open to others and cannot be closed.
pub fn make_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let permissions = fs::metadata(directory)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Removes a directory with what is in it; that it is not there is fine.
///
/// # Errors
///
/// If something in it cannot be removed.
pub fn remove_directory(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes() {
        let home = |environment: &Environment| environment.home().map(|h| (h.data, h.run));
        let path = |text: &str| Some(PathBuf::from(text));
        let mut environment = Environment { home: path("/h"), root: true, ..Environment::default() };
        assert_eq!(home(&environment), Some(("/h/data".into(), "/h/run".into())));
        environment.home = None;
        assert_eq!(home(&environment), Some(("/var/lib/coracle".into(), "/run/coracle".into())));
        environment.root = false;
        assert_eq!(home(&environment), None);
        environment.user_home = path("/home/u");
        assert_eq!(
            home(&environment),
            Some(("/home/u/.local/share/coracle".into(), "/home/u/.local/share/coracle/run".into()))
        );
        environment.data_home = path("/data");
        environment.runtime_dir = path("/run/user/1");
        assert_eq!(home(&environment), Some(("/data/coracle".into(), "/run/user/1/coracle".into())));
        assert_eq!(environment.settings_file(), path("/home/u/.config/coracle/settings.json"));
    }

    #[test]
    fn directories_are_private() {
        let outer = tempfile::tempdir().unwrap();
        let directory = outer.path().join("a/b");
        make_private(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        make_private(&directory).unwrap();
        for path in [outer.path().join("a"), directory] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        }
        remove_directory(&outer.path().join("a")).unwrap();
        remove_directory(&outer.path().join("a")).unwrap();
    }
}
