//! The settings file, and where the parts of Coracle are installed.
//!
//! # The file
//!
//! JSON, in `/etc/coracle/settings.json` for root, `~/.config/coracle/settings.json` for others,
//! `$CORACLE_HOME/settings.json` when that is set. It need not exist. An unknown key is an error.
//!
//! | key | meaning | environment variable |
//! |---|---|---|
//! | `accel` | `"auto"`, `"kvm"` or `"emulated"` | `CORACLE_ACCEL` |
//! | `kernel` | path of the guest kernel | `CORACLE_KERNEL` |
//! | `emulator` | path of `qemu-system-x86_64` | |
//! | `file_daemon` | path of `virtiofsd`, which serves bind mounts | |
//! | `registries` | how to reach registries, by `host` or `host:port`: mirrors, certificates, plain HTTP; see [`registry::settings`] | |
//! | `keep_blobs` | `true` keeps the layers of pulled and loaded images as they came, beside what they become, so that `push` and `save` give back the same manifest with the same digest; costs their compressed size on disk | |
//! | `parallel_layers` | how many layers of an image are downloaded and converted at once, from 1 to 16; 3 if not given | |
//!
//! A flag goes before a variable, a variable before the file.
//!
//! ```json
//! {
//!   "keep_blobs": true,
//!   "registries": {
//!     "docker.io": { "mirrors": ["mirror.example:5000"] },
//!     "lab.example:5000": { "ca": ["/etc/ssl/lab.pem"] }
//!   }
//! }
//! ```

use std::{
    env, fs, io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{error::Error, request::AcceleratorChoice};

/// What the settings file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Accelerator of machines whose request does not say.
    pub accel: Option<AcceleratorChoice>,
    /// Guest kernel.
    pub kernel: Option<PathBuf>,
    /// Emulator.
    pub emulator: Option<PathBuf>,
    /// File daemon.
    pub file_daemon: Option<PathBuf>,
    /// How registries are reached.
    pub registries: registry::Settings,
    /// Whether layers are kept as they came, too.
    pub keep_blobs: bool,
    /// How many layers are worked on at once.
    #[serde(deserialize_with = "parallel_layers")]
    pub parallel_layers: Option<NonZeroUsize>,
}

/// Most layers that are worked on at once: each has threads and buffers of its own.
const PARALLEL_LAYERS_MAX: usize = 16;

fn parallel_layers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroUsize>, D::Error> {
    let number = usize::deserialize(deserializer)?;
    let number = NonZeroUsize::new(number).filter(|number| number.get() <= PARALLEL_LAYERS_MAX);
    number.map(Some).ok_or_else(|| D::Error::custom(format!("parallel_layers must be from 1 to {PARALLEL_LAYERS_MAX}")))
}

impl Settings {
    /// How images are handled.
    #[must_use]
    pub fn image_options(&self) -> image::Options {
        let defaults = image::Options::default();
        image::Options {
            keep_blobs: self.keep_blobs,
            parallel_layers: self.parallel_layers.unwrap_or(defaults.parallel_layers),
        }
    }

    /// Reads a settings file; one that is not there says nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Settings`] if it cannot be read or says something unknown.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(Error::Settings { path: path.to_owned(), source: source.into() }),
        };
        serde_json::from_slice(&text).map_err(|source| Error::Settings { path: path.to_owned(), source: source.into() })
    }
}

/// The files that come with the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The machine process.
    pub vmm: PathBuf,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The initial RAM file system.
    pub initrd: PathBuf,
    /// The emulator that the settings name.
    pub emulator: Option<PathBuf>,
    /// The file daemon that the settings name.
    pub file_daemon: Option<PathBuf>,
}

impl Installation {
    /// Finds the parts: in `$CORACLE_LIB`, else in `../lib/coracle` from the command's own directory.
    ///
    /// # Errors
    ///
    /// If the command does not know its own path.
    pub fn find(settings: &Settings) -> io::Result<Self> {
        let library = match env::var_os("CORACLE_LIB").filter(|text| !text.is_empty()) {
            Some(path) => PathBuf::from(path),
            None => beside(&env::current_exe()?),
        };
        let library = std::path::absolute(library)?;
        let kernel = env::var_os("CORACLE_KERNEL").filter(|text| !text.is_empty()).map(PathBuf::from);
        Ok(Self {
            vmm: library.join("coracle-vmm"),
            kernel: kernel.or_else(|| settings.kernel.clone()).unwrap_or_else(|| library.join("vmlinux")),
            initrd: library.join("initrd"),
            emulator: settings.emulator.clone(),
            file_daemon: settings.file_daemon.clone(),
        })
    }

    /// The first part that is missing, with its name.
    #[must_use]
    pub fn missing(&self) -> Option<(&'static str, &Path)> {
        let parts = [("machine process", &self.vmm), ("guest kernel", &self.kernel), ("guest init", &self.initrd)];
        parts.into_iter().find(|(_, path)| !path.is_file()).map(|(name, path)| (name, path.as_path()))
    }
}

fn beside(executable: &Path) -> PathBuf {
    let directory = executable.parent().unwrap_or(Path::new("/"));
    directory.parent().unwrap_or(directory).join("lib/coracle")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("settings.json");
        assert_eq!(Settings::read(&path).unwrap(), Settings::default());
        fs::write(&path, r#"{"accel": "emulated", "kernel": "/k"}"#).unwrap();
        let settings = Settings::read(&path).unwrap();
        assert_eq!(settings.accel, Some(AcceleratorChoice::Emulated));
        assert_eq!(settings.kernel, Some("/k".into()));
        assert_eq!((settings.keep_blobs, settings.parallel_layers), (false, None));
        let text = r#"{"keep_blobs": true, "parallel_layers": 5, "registries": {"lab:5000": {"insecure": true}}}"#;
        fs::write(&path, text).unwrap();
        let settings = Settings::read(&path).unwrap();
        assert!(settings.keep_blobs && settings.registries.registries["lab:5000"].insecure);
        assert_eq!(settings.parallel_layers.map(NonZeroUsize::get), Some(5));
        for text in [
            "{",
            r#"{"accel": "fast"}"#,
            r#"{"acel": "kvm"}"#,
            r#"{"parallel_layers": 0}"#,
            r#"{"parallel_layers": 17}"#,
            r#"{"registries": {"lab": {"insecur": true}}}"#,
        ] {
            fs::write(&path, text).unwrap();
            let error = Settings::read(&path).unwrap_err();
            assert!(error.to_string().contains("settings.json"), "{error}");
        }
    }

    #[test]
    fn parts_lie_beside_the_command() {
        assert_eq!(beside(Path::new("/opt/coracle/bin/coracle")), Path::new("/opt/coracle/lib/coracle"));
    }
}
