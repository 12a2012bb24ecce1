//! What a container finds in a mount is not on its disk: what the disk has at such a path is hidden from it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use state::ContainerRecord;

use super::PathStat;
use super::error::FilesError;
use crate::{create::Spec, mounts};

/// The mount that has a path.
pub(super) struct Mounted {
    path: PathBuf,
    /// What is mounted.
    mount: String,
    /// Where the path is on the host, if it is there at all.
    pub(super) host: Option<PathBuf>,
}

impl Mounted {
    /// The innermost mount of a container that a path leads into. Links on the way are not looked at.
    pub(super) fn of(record: &ContainerRecord, path: &str) -> Option<Self> {
        let Spec { request, resolved, .. } = Spec::of(record).ok()?;
        let volumes = resolved.volumes.iter().map(|mount| (&mount.target, format!("volume {}", mount.volume), None));
        let binds = resolved.binds.iter();
        let binds = binds.map(|mount| (&mount.target, "files of the host".to_owned(), Some(&mount.source)));
        let tmpfs = request.tmpfs.iter().chain(mounts::tmpfs(&request.volumes));
        let tmpfs = tmpfs.map(|mount| (&mount.path, "a tmpfs".to_owned(), None));
        let path = names(path);
        let all = volumes.chain(binds).chain(tmpfs).map(|(target, mount, source)| (names(target), mount, source));
        let around = all.filter(|(target, ..)| path.starts_with(target));
        let (target, mount, source) = around.max_by_key(|(target, ..)| target.components().count())?;
        let rest = path.strip_prefix(&target).unwrap_or(&path);
        // Joining nothing leaves a slash behind, which no file has.
        let host = source.map(|source| Path::new(source).join(rest).components().collect());
        Some(Self { path, mount, host })
    }

    pub(super) fn error(self, record: &ContainerRecord) -> FilesError {
        let Self { path, mount, host } = self;
        FilesError::Mounted { container: record.name.clone(), path, mount, host }
    }
}

/// A path without needless slashes and dots; one that is not absolute counts from the root.
fn names(path: &str) -> PathBuf {
    Path::new("/").join(path).components().collect()
}

/// What is at a path of a container that is `host` on the host.
pub(super) fn stat_host(record: &ContainerRecord, path: &str, host: &Path) -> Result<PathStat, FilesError> {
    let path = names(path);
    let metadata = fs::symlink_metadata(host).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => FilesError::NoSuchPath { container: record.name.clone(), path: path.clone() },
        io::ErrorKind::NotADirectory => {
            FilesError::NotADirectory { container: record.name.clone(), path: path.clone() }
        }
        _ => FilesError::Host { path: host.to_owned(), source: error },
    })?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let link_target = metadata.is_symlink().then(|| fs::read_link(host).ok()).flatten();
    Ok(PathStat {
        name: path.file_name().map_or_else(|| "/".into(), PathBuf::from),
        size: metadata.len(),
        mode: metadata.mode(),
        mtime: (metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap_or_default()),
        link_target: link_target.map(|target| directory.join(target)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        mounts::BindMount,
        plan,
        request::{RunRequest, TmpfsRequest},
    };

    fn record() -> ContainerRecord {
        let mut record =
            ContainerRecord::new("ab12".repeat(16), "otter".into(), "sha256:1".into(), "busybox".into(), 1);
        let request = RunRequest {
            image: "busybox".into(),
            command: vec!["true".into()],
            volumes: ["data:/srv", "/home/me:/srv/src:ro", "/etc/motd:/motd"]
                .map(|text| mounts::parse_volume(text).unwrap())
                .into(),
            tmpfs: vec![TmpfsRequest { path: "/run/".into(), options: String::new() }],
            ..RunRequest::default()
        };
        let host = plan::Host {
            cpus: 1,
            memory: 1 << 30,
            wall_clock: std::time::Duration::ZERO,
            resolv_conf: String::new(),
            upstream_resolv_conf: None,
        };
        let resolved = plan::resolve(&record.id, &request, &plan::ImageDefaults::default(), &host).unwrap();
        assert_eq!(
            resolved.binds[1],
            BindMount { source: "/etc/motd".into(), target: "/motd".into(), read_only: false }
        );
        record.spec = json!({ "request": request, "resolved": resolved, "accelerator": "kvm" });
        record
    }

    #[test]
    fn the_innermost_mount_has_a_path() {
        let seen = |path: &str| Mounted::of(&record(), path).map(|mounted| (mounted.mount, mounted.host));
        let files = |path: &str| Some(("files of the host".to_owned(), Some(PathBuf::from(path))));
        assert_eq!(seen("/etc"), None);
        assert_eq!(seen("/srvx"), None);
        assert_eq!(seen("srv/./a"), Some(("volume data".into(), None)));
        assert_eq!(seen("/srv/src/a/b/"), files("/home/me/a/b"));
        assert_eq!(seen("/motd"), files("/etc/motd"));
        assert_eq!(seen("/run/x"), Some(("a tmpfs".into(), None)));
    }

    #[test]
    fn the_host_tells_what_its_files_are() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), "text").unwrap();
        std::os::unix::fs::symlink("../x", place.path().join("link")).unwrap();
        let stat = |name: &str| stat_host(&record(), &format!("/dir/{name}"), &place.path().join(name));
        let file = stat("file").unwrap();
        assert_eq!(
            (file.name, file.size, file.mode & 0o170_000, file.link_target),
            ("file".into(), 4, 0o100_000, None)
        );
        assert_eq!(stat("link").unwrap().link_target, Some("/dir/../x".into()));
        assert!(matches!(stat("none"), Err(FilesError::NoSuchPath { .. })));
        assert!(matches!(stat("file/below"), Err(FilesError::NotADirectory { .. })));
    }
}
