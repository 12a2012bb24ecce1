//! What a container finds mounted beside its root, as a caller asks for it: `-v`, `--mount`, `--tmpfs` and the image's
//! `Volumes` become one list in which each place is taken once.
//!
//! | asked for | becomes |
//! |---|---|
//! | `-v NAME:/path[:ro,nocopy]`, `--mount type=volume,src=NAME,dst=/path` | the volume of that name, made where it is missing |
//! | `-v /path`, `--mount type=volume,dst=/path` | a volume that nobody named |
//! | the image's `Volumes` | the same, where the caller mounts nothing there |
//! | `--mount type=tmpfs,dst=/path` | a tmpfs, as with `--tmpfs` |
//! | `-v /host/path:/path[:ro]`, `--mount type=bind,src=/host/path,dst=/path` | that directory or file of the host, over virtio-fs |
//!
//! A name that nobody chose is made of the container's id and the place in the list, so that the same request for the
//! same container always means the same volumes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    names,
    quantity::{self, QuantityError},
    request::TmpfsRequest,
};

/// Most volumes of a container: each is a disk of its machine, which has places for so many.
pub const MAX_VOLUMES: usize = 11;

/// A mount that a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountRequest {
    /// A volume.
    Volume(VolumeRequest),
    /// A tmpfs.
    Tmpfs(TmpfsRequest),
    /// Files of the host.
    Bind(BindMount),
}

/// A directory or a file of the host that a container finds mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// Absolute path on the host. Symbolic links in it are followed when the container starts.
    pub source: String,
    /// Where it is mounted: an absolute path.
    pub target: String,
    /// It cannot be written there.
    pub read_only: bool,
}

/// A volume that a caller wants mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeRequest {
    /// Its name; none for one of the container's own.
    pub name: Option<String>,
    /// Where it is mounted: an absolute path.
    pub target: String,
    /// It cannot be written there.
    pub read_only: bool,
    /// It stays empty at its first use, instead of getting what the image has there.
    pub no_copy: bool,
    /// Bytes of its disk, where it is made.
    pub size: Option<u64>,
    /// Its labels, where it is made.
    pub labels: BTreeMap<String, String>,
}

/// A mount that was resolved: what the record of a container keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// The volume.
    pub volume: String,
    /// Where it is mounted.
    pub target: String,
    /// It cannot be written there.
    pub read_only: bool,
    /// At its first use it gets what the image has there.
    pub copy_up: bool,
    /// Nobody named it.
    pub anonymous: bool,
    /// Bytes of its disk, where it is made for this.
    pub size: Option<u64>,
    /// Its labels, where it is made for this.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A mount that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MountError {
    /// `-v`.
    #[error("invalid volume {0:?}: expected [NAME:]/PATH[:ro], as in data:/var/lib/data, or /HOST/PATH:/PATH[:ro]")]
    Volume(String),
    /// `--mount`.
    #[error("invalid mount {text:?}: {problem}")]
    Mount {
        /// The option's value.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is nothing of that name on the host.
    #[error("{source_path:?} of the host cannot be mounted: {problem}")]
    Source {
        /// The path on the host.
        source_path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A name that no volume can have.
    #[error("invalid volume name {0:?}: expected [a-zA-Z0-9][a-zA-Z0-9_.-]* of 2 to 128 characters")]
    Name(String),
    /// A place that nothing can be mounted on.
    #[error("nothing can be mounted on {0:?}: expected an absolute path below / without ..")]
    Target(String),
    /// A driver that is not there.
    #[error("unknown volume driver {0:?}: volumes are disks (driver block)")]
    Driver(String),
    /// An option that the driver does not know.
    #[error("unknown volume option {0:?}: only size=SIZE is known")]
    Option(String),
    /// A size.
    #[error(transparent)]
    Size(#[from] QuantityError),
    /// Two mounts on one path.
    #[error("more than one mount on {0}")]
    Twice(String),
    /// More than a machine has places for.
    #[error("{asked} volumes are more than the {most} that a machine takes")]
    TooMany {
        /// How many there would be.
        asked: usize,
        /// How many there can be.
        most: usize,
    },
}

/// Parses `-v [NAME:]PATH[:OPTIONS]` and `-v HOST-PATH:PATH[:OPTIONS]`: what begins with `/`, `./`, `../` or is `.` or `..`
/// is a path of the host, counted from the working directory. Options are `ro`, `rw`, of volumes `nocopy`, and what has no
/// effect here: the labels of SELinux `z` and `Z`, private propagation, and how Docker Desktop keeps caches.
///
/// # Errors
///
/// [`MountError`].
pub fn parse_volume(text: &str) -> Result<MountRequest, MountError> {
    let invalid = || MountError::Volume(text.to_owned());
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] if target.starts_with('/') => (Some(source), target, ""),
        [target, options] if target.starts_with('/') => (None, target, options),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(invalid()),
    };
    if let Some(source) = source.filter(|source| is_path(source)) {
        let mut bind = BindMount { source: absolute(source)?, target: check_target(target)?, read_only: false };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" => bind.read_only = true,
                "rw" | "z" | "Z" | "private" | "rprivate" | "rbind" | "cached" | "consistent" | "delegated" => {}
                _ => return Err(invalid()),
            }
        }
        return Ok(MountRequest::Bind(bind));
    }
    let mut request = VolumeRequest {
        name: source.map(check_name).transpose()?,
        target: check_target(target)?,
        ..VolumeRequest::default()
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => request.read_only = true,
            "nocopy" => request.no_copy = true,
            "rw" | "z" | "Z" => {}
            _ => return Err(invalid()),
        }
    }
    Ok(MountRequest::Volume(request))
}

/// Parses `--mount type=volume|bind|tmpfs,KEY=VALUE,…`.
///
/// # Errors
///
/// [`MountError`].
pub fn parse_mount(text: &str) -> Result<MountRequest, MountError> {
    let problem = |problem: String| MountError::Mount { text: text.to_owned(), problem };
    let mut fields = Fields::default();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        fields.take(&key.to_ascii_lowercase(), value).map_err(|error| match error {
            FieldError::Mount(error) => error,
            FieldError::Unknown => problem(format!("unknown key {key:?}")),
            FieldError::Value => problem(format!("{key} cannot be {:?}", value.unwrap_or_default())),
        })?;
    }
    let target = check_target(&fields.target.ok_or_else(|| problem("it needs a target".into()))?)?;
    match fields.kind.as_deref().unwrap_or("volume") {
        "bind" if !fields.tmpfs_options.is_empty() || fields.is_of_volume => {
            Err(problem("a directory of the host has no options of a volume or tmpfs".into()))
        }
        "bind" => {
            let source = fields.source.filter(|source| !source.is_empty());
            let source = source.ok_or_else(|| problem("it needs a source, a path of the host".into()))?;
            Ok(MountRequest::Bind(BindMount { source: absolute(&source)?, target, read_only: fields.read_only }))
        }
        "volume" if !fields.tmpfs_options.is_empty() => Err(problem("a volume has no options of a tmpfs".into())),
        "volume" => {
            let name = fields.source.filter(|name| !name.is_empty());
            if let Some(path) = name.as_deref().filter(|name| is_path(name)) {
                return Err(problem(format!("{path:?} is no volume: type=bind mounts a path of the host")));
            }
            let name = name.map(|name| check_name(&name)).transpose()?;
            let (read_only, no_copy) = (fields.read_only, fields.no_copy);
            let (size, labels) = (fields.size, fields.labels);
            Ok(MountRequest::Volume(VolumeRequest { name, target, read_only, no_copy, size, labels }))
        }
        "tmpfs" if fields.source.is_some() => Err(problem("a tmpfs has no source".into())),
        "tmpfs" => {
            let mut options = fields.tmpfs_options;
            if fields.read_only {
                options.push("ro".to_owned());
            }
            Ok(MountRequest::Tmpfs(TmpfsRequest { path: target, options: options.join(",") }))
        }
        other => Err(problem(format!("unknown type {other:?}: expected volume, bind or tmpfs"))),
    }
}

/// Whether a source is a path of the host rather than the name of a volume.
fn is_path(source: &str) -> bool {
    source.starts_with('/') || matches!(source.split('/').next(), Some("." | ".."))
}

/// A path of the host without needless slashes and dots. `..` stays: what it leads to depends on links.
fn absolute(path: &str) -> Result<String, MountError> {
    let problem = |problem: &str| MountError::Source { source_path: path.to_owned(), problem: problem.to_owned() };
    if path.contains('\0') {
        return Err(problem("a path has no NUL"));
    }
    let absolute = std::path::absolute(path).map_err(|error| problem(&error.to_string()))?;
    absolute.into_os_string().into_string().map_err(|_| problem("the working directory's name is not UTF-8"))
}

/// Checks that the host has what is to be mounted, and that it is a directory or a regular file: of other files only the
/// names would be shared.
///
/// # Errors
///
/// [`MountError::Source`].
pub fn check_sources(binds: &[BindMount]) -> Result<(), MountError> {
    for BindMount { source, .. } in binds {
        let problem = match fs::metadata(source) {
            Ok(metadata) if metadata.is_dir() || metadata.is_file() => continue,
            Ok(_) => "it is neither a directory nor a regular file, and only those can be shared".to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                format!("it is not there; `mkdir -p {source}` makes a directory")
            }
            Err(error) => error.to_string(),
        };
        return Err(MountError::Source { source_path: source.clone(), problem });
    }
    Ok(())
}

/// The fields of a `--mount`.
#[derive(Debug, Default)]
struct Fields {
    kind: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: bool,
    no_copy: bool,
    size: Option<u64>,
    labels: BTreeMap<String, String>,
    tmpfs_options: Vec<String>,
    /// Something was said that only a volume can be.
    is_of_volume: bool,
}

enum FieldError {
    Unknown,
    Value,
    Mount(MountError),
}

impl From<MountError> for FieldError {
    fn from(error: MountError) -> Self {
        Self::Mount(error)
    }
}

impl From<QuantityError> for FieldError {
    fn from(error: QuantityError) -> Self {
        Self::Mount(error.into())
    }
}

impl Fields {
    fn take(&mut self, key: &str, value: Option<&str>) -> Result<(), FieldError> {
        let flag = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(_) => Err(FieldError::Value),
        };
        let text = || value.map(str::to_owned).ok_or(FieldError::Value);
        self.is_of_volume |= key.starts_with("volume-");
        match key {
            "type" => self.kind = Some(text()?),
            "source" | "src" => self.source = Some(text()?),
            "target" | "dst" | "destination" => self.target = Some(text()?),
            "readonly" | "ro" => self.read_only = flag()?,
            "volume-nocopy" => self.no_copy = flag()?,
            "volume-driver" => check_driver(&text()?)?,
            "volume-opt" => self.size = Some(size_option(&text()?)?),
            "volume-label" => {
                let label = text()?;
                let (name, value) = label.split_once('=').unwrap_or((&label, ""));
                self.labels.insert(name.to_owned(), value.to_owned());
            }
            "tmpfs-size" => self.tmpfs_options.push(format!("size={}", quantity::parse_size(&text()?)?)),
            "tmpfs-mode" => {
                let mode = text()?;
                if !u32::from_str_radix(&mode, 8).is_ok_and(|mode| mode <= 0o7777) {
                    return Err(FieldError::Value);
                }
                self.tmpfs_options.push(format!("mode={mode}"));
            }
            // What is mounted below a directory is mounted with it, and what is mounted there later is not seen.
            "bind-propagation" if !matches!(value, Some("private" | "rprivate")) => return Err(FieldError::Value),
            "bind-nonrecursive" if flag()? => return Err(FieldError::Value),
            "bind-recursive" if !matches!(value, Some("enabled" | "writable")) => return Err(FieldError::Value),
            "bind-propagation" | "bind-nonrecursive" | "bind-recursive" | "consistency" => {}
            _ => return Err(FieldError::Unknown),
        }
        Ok(())
    }
}

/// Checks a volume's name: the rule is that of containers.
///
/// # Errors
///
/// [`MountError::Name`].
pub fn check_name(name: &str) -> Result<String, MountError> {
    names::check_name(name).map_err(|_| MountError::Name(name.to_owned()))?;
    Ok(name.to_owned())
}

/// Checks `--driver`: there is one. Docker's name for the driver that every host has, `local`, means it too.
///
/// # Errors
///
/// [`MountError::Driver`].
pub fn check_driver(driver: &str) -> Result<(), MountError> {
    if matches!(driver, "block" | "local" | "") { Ok(()) } else { Err(MountError::Driver(driver.to_owned())) }
}

/// Parses a volume's option `size=SIZE` to bytes.
///
/// # Errors
///
/// [`MountError`] for another option or a bad size.
pub fn size_option(text: &str) -> Result<u64, MountError> {
    match text.split_once('=') {
        Some(("size", size)) => Ok(quantity::parse_size(size)?),
        _ => Err(MountError::Option(text.to_owned())),
    }
}

/// A mount's place, without needless slashes and dots.
fn check_target(target: &str) -> Result<String, MountError> {
    let invalid = || MountError::Target(target.to_owned());
    let parts: Vec<&str> = target.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if !target.starts_with('/') || target.contains('\0') || parts.is_empty() || parts.contains(&"..") {
        return Err(invalid());
    }
    Ok(format!("/{}", parts.join("/")))
}

/// The volumes of the container `id`: those that were asked for, then those of its image, where nothing else is.
///
/// # Errors
///
/// [`MountError::Twice`], [`MountError::TooMany`]; the image's bad paths count as not there.
pub fn resolve(
    id: &str,
    requests: &[MountRequest],
    tmpfs: &[TmpfsRequest],
    image: &[String],
) -> Result<Vec<VolumeMount>, MountError> {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut take = |target: &str| {
        let fresh = taken.insert(target.trim_end_matches('/').to_owned());
        if fresh { Ok(()) } else { Err(MountError::Twice(target.to_owned())) }
    };
    let mut asked = Vec::new();
    for TmpfsRequest { path, .. } in tmpfs {
        // A tmpfs of the same place twice is mount(8)'s business: the later one covers the earlier.
        let _ = take(path);
    }
    for request in requests {
        match request {
            MountRequest::Tmpfs(tmpfs) => take(&tmpfs.path)?,
            MountRequest::Bind(bind) => take(&bind.target)?,
            MountRequest::Volume(volume) => {
                take(&volume.target)?;
                asked.push(volume.clone());
            }
        }
    }
    for target in image.iter().filter_map(|target| check_target(target).ok()) {
        if take(&target).is_ok() {
            asked.push(VolumeRequest { target, ..VolumeRequest::default() });
        }
    }
    if asked.len() > MAX_VOLUMES {
        return Err(MountError::TooMany { asked: asked.len(), most: MAX_VOLUMES });
    }
    Ok(asked.into_iter().enumerate().map(|(index, request)| mount(id, index, request)).collect())
}

/// The tmpfs mounts among `requests`.
pub fn tmpfs(requests: &[MountRequest]) -> impl Iterator<Item = &TmpfsRequest> {
    requests.iter().filter_map(|request| match request {
        MountRequest::Tmpfs(tmpfs) => Some(tmpfs),
        MountRequest::Volume(_) | MountRequest::Bind(_) => None,
    })
}

/// The files of the host among `requests`.
pub fn binds(requests: &[MountRequest]) -> impl Iterator<Item = &BindMount> {
    requests.iter().filter_map(|request| match request {
        MountRequest::Bind(bind) => Some(bind),
        MountRequest::Volume(_) | MountRequest::Tmpfs(_) => None,
    })
}

fn mount(id: &str, index: usize, request: VolumeRequest) -> VolumeMount {
    VolumeMount {
        anonymous: request.name.is_none(),
        volume: request.name.unwrap_or_else(|| anonymous_name(id, index)),
        target: request.target,
        read_only: request.read_only,
        copy_up: !request.no_copy,
        size: request.size,
        labels: request.labels,
    }
}

/// 62 digits of the container's id, backwards, and the place in the list: as unique as the id, and no id itself.
fn anonymous_name(id: &str, index: usize) -> String {
    let digits: String = id.chars().rev().take(62).collect();
    format!("{digits}{index:02x}")
}

#[cfg(test)]
mod tests;
