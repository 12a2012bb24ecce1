//! Which file a command names.

use std::path::{Path, PathBuf};

use protocol::SpawnError;
use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, statat};
use rustix::io::Errno;

use crate::paths::path_of;

/// Where programs are searched when the environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Most bytes of a command that an error quotes.
const QUOTED: usize = 256;

/// A command as an error shows it.
pub(crate) fn quoted(command: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&command[..command.len().min(QUOTED)]))
}

/// The path that a command stands for: itself if it has a slash, else the first executable file in `PATH`.
///
/// `check` says whether a path can be executed.
pub(crate) fn find(
    command: &[u8],
    env: &[Vec<u8>],
    check: impl Fn(&Path) -> Result<(), Errno>,
) -> Result<PathBuf, SpawnError> {
    let not_executable = |errno| SpawnError::NotExecutable(format!("exec: {}: {}", quoted(command), reason(errno)));
    if command.is_empty() {
        return Err(SpawnError::NotFound("exec: the command is empty".to_owned()));
    }
    if command.contains(&b'/') {
        return match check(path_of(command)) {
            Ok(()) => Ok(path_of(command).to_owned()),
            Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => {
                Err(SpawnError::NotFound(format!("exec: {}: {}", quoted(command), reason(errno))))
            }
            Err(errno) => Err(not_executable(errno)),
        };
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix(b"PATH="));
    let mut refusal = None;
    for directory in path.unwrap_or(DEFAULT_PATH).split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { Path::new(".") } else { path_of(directory) };
        let candidate = directory.join(path_of(command));
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(errno @ (Errno::ACCESS | Errno::PERM)) => refusal = Some(errno),
            // Not here, or here is something else of that name.
            Err(_) => {}
        }
    }
    Err(refusal.map_or_else(
        || SpawnError::NotFound(format!("exec: {}: executable file not found in $PATH", quoted(command))),
        not_executable,
    ))
}

/// Whether this process may execute a path, links followed.
pub(crate) fn check_executable(path: &Path) -> Result<(), Errno> {
    let stat = statat(CWD, path, AtFlags::empty())?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::ACCESS),
    }
}

/// What became of an `execve` that failed although the path was found.
pub(crate) fn exec_error(command: &[u8], errno: Errno) -> SpawnError {
    let text = format!("exec: {}: {}", quoted(command), reason(errno));
    match errno {
        // The interpreter that the file names is missing.
        Errno::NOENT | Errno::NOTDIR => SpawnError::NotFound(text),
        _ => SpawnError::NotExecutable(text),
    }
}

fn reason(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT => "no such file or directory",
        Errno::NOTDIR => "not a directory",
        Errno::ISDIR => "is a directory",
        Errno::ACCESS => "permission denied",
        Errno::PERM => "operation not permitted",
        Errno::NOEXEC => "exec format error",
        Errno::TOOBIG => "argument list too long",
        Errno::LOOP => "too many levels of symbolic links",
        Errno::NAMETOOLONG => "file name too long",
        Errno::TXTBSY => "text file busy",
        Errno::NOMEM => "cannot allocate memory",
        Errno::LIBBAD | Errno::INVAL => "malformed executable",
        _ => "cannot be executed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &Path) -> Result<(), Errno> {
        match path.to_str() {
            Some("/bin/sh" | "./here" | "/opt/x/tool" | "relative/tool") => Ok(()),
            Some("/sbin/secret") => Err(Errno::ACCESS),
            Some("/bin/dir" | "/bin/dir/") => Err(Errno::ISDIR),
            Some("/bin/sh/x") => Err(Errno::NOTDIR),
            _ => Err(Errno::NOENT),
        }
    }

    fn search(command: &str, path: Option<&str>) -> Result<PathBuf, SpawnError> {
        let env = [path.map_or_else(|| b"X=1".to_vec(), |path| format!("PATH={path}").into_bytes())];
        find(command.as_bytes(), &env, check)
    }

    #[test]
    fn path_is_searched_in_order() {
        assert_eq!(search("sh", None).unwrap(), Path::new("/bin/sh"));
        assert_eq!(search("tool", Some("/nowhere:/opt/x:/bin")).unwrap(), Path::new("/opt/x/tool"));
        assert_eq!(search("here", Some("/bin:")).unwrap(), Path::new("./here"));
    }

    #[test]
    fn a_slash_means_itself() {
        assert_eq!(search("relative/tool", Some("/bin")).unwrap(), Path::new("relative/tool"));
        assert!(matches!(search("/bin/nope", None), Err(SpawnError::NotFound(_))));
        assert!(matches!(search("/bin/sh/x", None), Err(SpawnError::NotFound(_))));
        assert!(matches!(search("/bin/dir", None), Err(SpawnError::NotExecutable(text)) if text.contains("directory")));
        assert!(matches!(search("/sbin/secret", None), Err(SpawnError::NotExecutable(_))));
    }

    #[test]
    fn a_refusal_counts_only_if_nothing_else_is_found() {
        assert!(matches!(search("secret", None), Err(SpawnError::NotExecutable(_))));
        assert!(matches!(search("dir", None), Err(SpawnError::NotFound(_))));
        assert!(matches!(search("absent", None), Err(SpawnError::NotFound(text)) if text.contains("\"absent\"")));
        assert!(matches!(search("", None), Err(SpawnError::NotFound(_))));
    }

    #[test]
    fn a_missing_interpreter_is_not_found() {
        assert!(matches!(exec_error(b"/x", Errno::NOENT), SpawnError::NotFound(_)));
        assert!(matches!(exec_error(b"/x", Errno::NOEXEC), SpawnError::NotExecutable(_)));
    }
}
