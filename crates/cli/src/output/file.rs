//! Archives that a command writes: to a file that appears when it is whole, or to standard output.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process,
};

use anyhow::Context as _;

use crate::output::report::{self, Refusal};

/// Writes an archive where `-o` says: to a file, to standard output where there is none or `-`.
///
/// # Errors
///
/// Those of `write` and of the file; a terminal.
pub(crate) fn write_archive(
    output: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    match output.filter(|path| *path != Path::new("-")) {
        Some(path) if is_special(path) => {
            write(&mut OpenOptions::new().write(true).open(path).with_context(|| cannot_write(path))?)
        }
        Some(path) => {
            let mut out = Whole::create(path)?;
            write(&mut out.file)?;
            out.finish()
        }
        None if io::stdout().is_terminal() => {
            let hint = "name a file with -o, or send standard output to one";
            Err(Refusal::new("an archive is nothing to write to a terminal", hint).into())
        }
        None => {
            let mut out = io::stdout().lock();
            write(&mut out).and_then(|()| Ok(out.flush()?)).map_err(report::own_pipe)
        }
    }
}

/// Whether something is there that is written to, not replaced: a device, a pipe.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// A file that appears under its name when it is whole, and not at all otherwise.
#[derive(Debug)]
struct Whole {
    file: File,
    path: PathBuf,
    temporary: PathBuf,
    finished: bool,
}

impl Whole {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let name = path
            .file_name()
            .filter(|_| !path.is_dir())
            .with_context(|| format!("cannot write {}: it is a directory", path.display()))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", process::id()));
        // A link leads to what is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let temporary = path.with_file_name(hidden);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        let file = file.with_context(|| cannot_write(&path))?;
        Ok(Self { file, path, temporary, finished: false })
    }

    fn finish(mut self) -> anyhow::Result<()> {
        let path = self.path.clone();
        self.file.sync_all().and_then(|()| fs::rename(&self.temporary, &path)).with_context(|| cannot_write(&path))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_appears_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.tar");
        fs::write(&path, "before").unwrap();
        let mut out = Whole::create(&path).unwrap();
        out.file.write_all(b"half").unwrap();
        drop(out);
        assert_eq!(fs::read(&path).unwrap(), b"before");
        let mut out = Whole::create(&path).unwrap();
        out.file.write_all(b"whole").unwrap();
        out.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(Whole::create(directory.path()).unwrap_err().to_string().contains("is a directory"));
        assert!(is_special(Path::new("/dev/null")) && !is_special(&path));
    }
}
