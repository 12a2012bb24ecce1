//! One path of a container: what it is, and what is there as an archive.

use std::ffi::OsString;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::archive::Archive;
use super::error::FilesError;
use super::export::below;
use super::lookup::{Asked, Found, Target, find, resolve};
use super::mounted::{Mounted, stat_host};
use super::view::{Kind, View};
use super::{PathStat, path_of};
use crate::{Engine, error::Error};

/// Bytes that are written at once.
const BUFFER: usize = 256 << 10;

impl Engine {
    /// What a path of a container is; what is mounted from the host is looked at there. Symbolic links on the way to it are followed; it itself is not, unless it ends in a
    /// slash or a dot.
    ///
    /// # Errors
    ///
    /// As for [`Engine::diff`], and where there is no such path, or it is in a mount that cannot be looked into.
    pub fn stat_path(&self, name: &str, path: &str) -> Result<PathStat, Error> {
        self.with_view(name, |view, record| {
            let mounted = Mounted::of(record, path);
            if let Some(host) = mounted.as_ref().and_then(|mounted| mounted.host.as_deref()) {
                return Ok(stat_host(record, path, host)?);
            }
            let asked = Asked::new(path);
            match (find(view, asked, false), mounted) {
                (Err(FilesError::NoSuchPath { .. }), Some(mounted)) => Err(mounted.error(record).into()),
                (found, _) => Ok(stat(view, asked, &found?)?),
            }
        })
    }

    /// Writes what is at a path of a container as a tar archive. The names in it begin with the last component of the
    /// path; with `.`, where that is what the path ends in or is `/`. With `follow`, a symbolic link at its end is
    /// followed, and keeps its name.
    ///
    /// # Errors
    ///
    /// As for [`Engine::stat_path`], for whatever is in a mount, and what `out` says.
    pub fn copy_out(&self, name: &str, path: &str, follow: bool, out: &mut dyn Write) -> Result<PathStat, Error> {
        self.with_view(name, |view, record| {
            if let Some(mounted) = Mounted::of(record, path) {
                return Err(mounted.error(record).into());
            }
            let asked = Asked::new(path);
            let found = find(view, asked, follow)?;
            let stat = stat(view, asked, &found)?;
            let name = asked.archive_name();
            let mut archive = Archive::new(view, BufWriter::with_capacity(BUFFER, out));
            archive.node(&name, &found.path, &found.node)?;
            below(view, &found.path, &found.node, |name, path, node| archive.node(name, path, node), &name)?;
            archive.finish()?.flush().map_err(FilesError::Write)?;
            self.tell_of_files(record, "copy", &[("path", path.to_owned())]);
            Ok(stat)
        })
    }
}

fn stat(view: &View<'_>, asked: Asked<'_>, found: &Found) -> Result<PathStat, FilesError> {
    let attributes = view.attributes(&found.node)?;
    let (kind, size) = match &attributes.kind {
        Kind::Directory => (0o040_000, 4096),
        Kind::File => (0o100_000, attributes.size),
        Kind::Symlink(target) => (0o120_000, target.len() as u64),
        Kind::Char(..) => (0o020_000, 0),
        Kind::Block(..) => (0o060_000, 0),
        Kind::Fifo => (0o010_000, 0),
        Kind::Socket => (0o140_000, 0),
    };
    let link_target = match &attributes.kind {
        Kind::Symlink(target) => Some(link_target(view, asked, target)),
        _ => None,
    };
    Ok(PathStat {
        name: name_of(&found.path),
        size,
        mode: kind | u32::from(attributes.mode),
        mtime: attributes.mtime,
        link_target,
    })
}

/// Where a symbolic link leads; what it says, where that is nowhere.
fn link_target(view: &View<'_>, asked: Asked<'_>, target: &[u8]) -> PathBuf {
    match resolve(view, asked, true) {
        Ok(Target::Found(Found { path, .. }) | Target::Missing(path)) => path_of(&path),
        Err(_) => OsString::from_vec(target.to_vec()).into(),
    }
}

fn name_of(path: &[u8]) -> PathBuf {
    match path.rsplit(|byte| *byte == b'/').next() {
        None | Some(b"") => "/".into(),
        Some(name) => OsString::from_vec(name.to_vec()).into(),
    }
}
