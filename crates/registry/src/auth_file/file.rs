//! Reading a file of credentials, and replacing it in one step.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::CredentialsError;

/// No file of credentials is longer.
const LONGEST: u64 = 4 << 20;

/// The text of a file; `None` where there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, CredentialsError> {
    let unreadable = |source| CredentialsError::File { action: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(unreadable(e)),
    };
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let malformed = |problem: &str| CredentialsError::Malformed { path: path.to_owned(), problem: problem.to_owned() };
    if bytes.len() as u64 > LONGEST {
        return Err(malformed("it is longer than 4 MiB"));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| malformed("it is not UTF-8"))
}

/// A file that no other process of ours replaces meanwhile: its directory is locked.
#[derive(Debug)]
pub(super) struct Locked {
    path: PathBuf,
    directory: File,
}

impl Locked {
    /// Locks the file, which need not exist. A link is followed: the file it names is replaced, not the link.
    pub(super) fn open(path: &Path) -> Result<Self, CredentialsError> {
        let unwritable = |source| CredentialsError::File { action: "write", path: path.to_owned(), source };
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unwritable)?;
        let directory = File::open(directory).map_err(unwritable)?;
        directory.lock().map_err(unwritable)?;
        Ok(Self { path, directory })
    }

    /// What is in it; of a file that does not exist, nothing.
    pub(super) fn text(&self) -> Result<String, CredentialsError> {
        Ok(read(&self.path)?.unwrap_or_default())
    }

    /// Replaces it: the new text is durable when this returns, and the old one is there until then.
    pub(super) fn replace(&self, text: &str) -> Result<(), CredentialsError> {
        let unwritable = |source| CredentialsError::File { action: "write", path: self.path.clone(), source };
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = self.path.with_file_name(name);
        let written = self.write(&new, text);
        if written.is_err() {
            // What cannot be removed either is left: it is 0600, and the next one of this name replaces it.
            let _ = fs::remove_file(&new);
        }
        written.map_err(unwritable)
    }

    fn write(&self, new: &Path, text: &str) -> io::Result<()> {
        match fs::remove_file(new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(new, &self.path)?;
        self.directory.sync_all()
    }
}
