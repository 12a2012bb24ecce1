//! Commands that get no more than so much memory.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

/// A limit on the memory of processes: a control group where one can be made (page cache counts, and is given back
/// under pressure), otherwise a limit on private writable mappings, which no process outgrows without being told.
#[derive(Debug)]
pub enum Limit {
    /// The directory of a control group.
    Group(PathBuf),
    /// Bytes for `RLIMIT_DATA`.
    Data(u64),
}

impl Limit {
    /// Makes the strictest limit of `bytes` that this host allows.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("coracle-test-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let hierarchies = [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];
        for (root, file) in hierarchies {
            let group = Path::new(root).join(&name);
            if fs::create_dir(&group).is_err() {
                continue;
            }
            // A directory that is not a control group has no files of its own.
            if group.join(file).exists() && fs::write(group.join(file), bytes.to_string()).is_ok() {
                return Self::Group(group);
            }
            let _ = fs::remove_dir(&group);
        }
        Self::Data(bytes)
    }

    /// The same command under the limit. Its streams and environment are those of a new command.
    #[must_use]
    pub fn wrap(&self, command: &Command) -> Command {
        let mut wrapped = match self {
            Self::Group(group) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", r#"echo $$ > "$0" && exec "$@""#]).arg(group.join("cgroup.procs"));
                shell
            }
            Self::Data(bytes) => {
                let mut prlimit = Command::new("prlimit");
                prlimit.arg(format!("--data={bytes}")).arg("--");
                prlimit
            }
        };
        wrapped.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        wrapped.process_group(0);
        wrapped
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Self::Group(group) = self {
            let _ = fs::remove_dir(group);
        }
    }
}
