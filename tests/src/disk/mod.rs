//! A disk that fails when it is told to: a FUSE file system in memory that knows what is durable.
//!
//! [`Disk::mount`] shows a [`Tree`] as a directory. Every change that a process makes there is a [`Change`], and all
//! changes of all processes stand in one order, so that "the 117th change" is a point that can be reached again:
//!
//! - a [`Fault`] kills the process at a change, or refuses that one, or that one and all that need space after it;
//! - the changes are kept with the moments that the test marks between them ([`History`]), and from them follows
//!   what a power cut at any change leaves ([`cut`]).
//!
//! Nothing here caches: a write is a change when `write` returns, and only `fsync` makes it durable. What a process
//! writes through a shared mapping arrives late, as it does anywhere.
//!
//! It needs `/dev/fuse` and root. A host without them fails the tests that use it: what they show cannot be shown
//! otherwise.

pub mod cut;
mod server;
mod tree;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{BackgroundSession, Config, MountOption};
use rustix::io::Errno;
use tempfile::TempDir;

pub use tree::{Change, Content, Kind, Node, ROOT, Tree};

/// What goes wrong, and at which change, counted from 1 since the disk was mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The process that asks for this change is killed instead; nothing changes any more.
    Kill(usize),
    /// From this change on, those that need space fail with `ENOSPC`.
    Full(usize),
    /// This change fails with `EIO`. Others do not.
    Broken(usize),
}

/// What happened on a disk, in order.
#[derive(Debug, Clone)]
pub struct History {
    /// The tree before the first change.
    pub before: Tree,
    /// Every change that was made.
    pub changes: Vec<Change>,
    /// How many changes had been made at each moment that was marked.
    pub marks: Vec<usize>,
}

/// A mounted disk. It is unmounted when it is dropped.
#[derive(Debug)]
pub struct Disk {
    shared: Arc<Mutex<State>>,
    directory: TempDir,
    session: Option<BackgroundSession>,
}

/// What the server and the test share.
#[derive(Debug)]
struct State {
    tree: Tree,
    before: Tree,
    changes: Vec<Change>,
    marks: Vec<usize>,
    asked: usize,
    fault: Fault,
    struck: bool,
}

impl Disk {
    /// Mounts a disk that holds `tree` and fails as `fault` says.
    ///
    /// # Panics
    ///
    /// Where there is no FUSE: with what is missing.
    #[must_use]
    pub fn mount(tree: &Tree, fault: Fault) -> Self {
        let directory = TempDir::with_prefix("coracle-disk-").expect("a temporary directory");
        let state = State {
            tree: tree.clone(),
            before: tree.clone(),
            changes: Vec::new(),
            marks: Vec::new(),
            asked: 0,
            fault,
            struck: false,
        };
        let shared = Arc::new(Mutex::new(state));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("coracle-test".into()), MountOption::DefaultPermissions];
        let session = fuser::spawn_mount(server::Server::new(Arc::clone(&shared)), directory.path(), &config)
            .unwrap_or_else(|e| panic!("cannot mount a FUSE file system (as root, with /dev/fuse): {e}"));
        Self { shared, directory, session: Some(session) }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Remembers that this moment is between two changes.
    pub fn mark(&self) {
        let mut state = lock(&self.shared);
        let now = state.changes.len();
        state.marks.push(now);
    }

    /// Whether the fault has happened.
    #[must_use]
    pub fn struck(&self) -> bool {
        lock(&self.shared).struck
    }

    /// Unmounts it and gives back what it holds.
    #[must_use]
    pub fn unmount(mut self) -> Tree {
        self.end();
        lock(&self.shared).tree.clone()
    }

    /// Unmounts it and gives back what happened.
    #[must_use]
    pub fn into_history(mut self) -> History {
        self.end();
        let mut state = lock(&self.shared);
        History {
            before: state.before.clone(),
            changes: std::mem::take(&mut state.changes),
            marks: std::mem::take(&mut state.marks),
        }
    }

    fn end(&mut self) {
        if let Some(session) = self.session.take() {
            session.umount_and_join().expect("unmounted");
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // A test that fails shows its own reason.
            let _ = session.umount_and_join();
        }
    }
}

impl State {
    /// Makes a change that the process `pid` asked for, unless the fault is now. No process asks for pages of a
    /// shared mapping to be written: they come when the kernel likes, and are no point that could be reached again.
    fn make(&mut self, change: Change, pid: u32) -> Result<(), Errno> {
        self.tree.check(&change)?;
        if pid != 0 {
            self.asked += 1;
            self.strike(&change, pid)?;
        }
        self.tree.apply(&change);
        self.changes.push(change);
        Ok(())
    }

    fn strike(&mut self, change: &Change, pid: u32) -> Result<(), Errno> {
        match self.fault {
            Fault::Kill(at) if self.asked >= at => {
                if !self.struck {
                    self.struck = true;
                    kill(pid);
                }
                Err(Errno::IO)
            }
            Fault::Full(at) if self.asked >= at && change.needs_space() => {
                self.struck = true;
                Err(Errno::NOSPC)
            }
            Fault::Broken(at) if self.asked == at => {
                self.struck = true;
                Err(Errno::IO)
            }
            _ => Ok(()),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a process; the kernel names the thread that asked, and a signal to a thread's id goes to its process.
fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a process asked"), rustix::process::Signal::KILL).expect("killed");
}
