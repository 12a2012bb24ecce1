//! A container: its disks, its cgroup, its first process.
//!
//! ```text
//!  create ─▶ SettingUp ──(first process says it is done)──▶ Ready ──(first Spawn)──▶ Occupied ──(it ended)──▶ Over
//!                 └──(it failed or died)──▶ forgotten
//! ```
//!
//! The file systems are mounted in guest init's own mount namespace, so that it can unmount them when the machine
//! ends; the container's namespaces, with all that an image can interfere with, are set up by the container's first
//! process, which then waits to become the first program ([`first_process`]).

use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use protocol::{ContainerConfig, ContainerId, Question, RequestId, Task};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::cgroup::Cgroup;
use crate::channel::{self, Channel, Listener};
use crate::disks::Disks;
use crate::exec::{self, Parts};
use crate::failure::{Context, Result, failure};
use crate::mounts::{self, Sources};
use crate::platform::Platform;
use crate::sys;

/// Where in its life a container is.
#[derive(Debug)]
pub(crate) enum State {
    /// Its first process sets it up.
    SettingUp(Listener),
    /// Its first process waits for a program.
    Ready(Listener),
    /// Its first process has been given a program.
    Occupied,
    /// Its first process ended, and with it all others.
    Over,
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) state: State,
    pub(crate) first: Pid,
    pub(crate) cgroup: Cgroup,
    pub(crate) terminals: OwnedFd,
    /// Refers to the first process, to join its namespaces.
    pub(crate) namespaces: OwnedFd,
    pub(crate) disks: Disks,
    pub(crate) freezer: Freezer,
}

/// Freezes and thaws of a container's disks, one after the other: a thaw that overtakes the freeze that it is for would
/// leave the disks frozen. The next one begins when the child that does the last one is gone, not when it is given up.
#[derive(Debug, Default)]
pub(crate) struct Freezer {
    pub(crate) busy: Option<Pid>,
    pub(crate) waiting: VecDeque<(RequestId, Question)>,
}

/// A name that is safe as one component of a path.
pub(crate) fn is_valid(container: &ContainerId) -> bool {
    let name = container.0.as_bytes();
    (1..=64).contains(&name.len()) && name.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

impl Container {
    /// Mounts a container's disks and starts its first process.
    pub(crate) fn create(
        platform: &dyn Platform,
        id: &ContainerId,
        config: &ContainerConfig,
        own_program: &OwnedFd,
    ) -> Result<Self> {
        platform.set_clock(config.wall_clock.0, config.wall_clock.1)?;
        let disks = Disks::mount(platform, id, config)?;
        let etc = write_etc(disks.directory(), config)?;
        let cgroup = Cgroup::create(platform.cgroups(), &id.0, &config.limits)?;
        let terminals = mounts::new_terminals()?;
        let (own, child) = channel::pair().context(|| "make a socket pair".to_owned())?;
        let listener = Listener::new(own, true).context(|| "make a socket pair".to_owned())?;
        let fork = sys::fork(sys::CONTAINER_NAMESPACES, Some(cgroup.as_fd()));
        let first = match fork.context(|| "start the container's first process".to_owned())? {
            sys::Fork::Parent(first) => first,
            sys::Fork::Child => {
                let root = disks.root();
                let (volumes, shared_files) = (disks.volumes(), disks.shared_files());
                let (terminals, devices) = (terminals.as_fd(), Path::new("/dev"));
                let sources =
                    Sources { root: &root, etc: &etc, volumes, shared_files: &shared_files, terminals, devices };
                first_process(config, &sources, child, own_program)
            }
        };
        let namespaces = rustix::process::pidfd_open(first, rustix::process::PidfdFlags::empty())
            .context(|| "refer to the container's first process".to_owned())?;
        Ok(Self {
            state: State::SettingUp(listener),
            first,
            cgroup,
            terminals,
            namespaces,
            disks,
            freezer: Freezer::default(),
        })
    }
}

/// The first process of a container until it is the first program.
fn first_process(config: &ContainerConfig, sources: &Sources<'_>, channel: Channel, own_program: &OwnedFd) -> ! {
    let mut kept = [channel.as_fd().as_raw_fd(), own_program.as_raw_fd(), sources.terminals.as_raw_fd()];
    sys::close_all_but(3, &mut kept);
    let result = leave_guest_init(&config.hostname).and_then(|()| mounts::set_up(config, sources));
    channel.say_set_up(&result);
    if result.is_err() {
        sys::exit(1)
    }
    let Some((spec, terminal, stdio)) = channel.receive_spec() else { sys::exit(1) };
    let Ok(own_program) = own_program.try_clone() else { sys::exit(1) };
    exec::run(&spec, Parts { stdio, terminal, first: true, own_program, channel })
}

/// Gives up what only guest init may have, and takes what is the container's without a mount.
fn leave_guest_init(hostname: &str) -> Result<()> {
    // Through guest init's /proc, which is still in sight.
    fs::write("/proc/self/oom_score_adj", "0").context(|| "set oom_score_adj".to_owned())?;
    sys::unshare_cgroup().context(|| "make a cgroup namespace".to_owned())?;
    rustix::system::sethostname(hostname.as_bytes()).context(|| format!("set the host name {hostname:?}"))
}

/// The files that `/etc` of the container gets.
fn write_etc(directory: &Path, config: &ContainerConfig) -> Result<PathBuf> {
    let etc = directory.join("etc");
    let make = || -> std::io::Result<()> {
        fs::create_dir(&etc)?;
        let hostname = format!("{}\n", config.hostname);
        let files = [("hosts", &config.hosts_file), ("hostname", &hostname), ("resolv.conf", &config.resolv_conf)];
        for (name, content) in files {
            fs::write(etc.join(name), content)?;
            fs::set_permissions(etc.join(name), fs::Permissions::from_mode(0o644))?;
        }
        Ok(())
    };
    make().context(|| "write the container's files of /etc".to_owned())?;
    Ok(etc)
}

/// A process that joins a running container. A task of guest init is none of the container's processes: it is not
/// seen there, nor counted.
pub(crate) fn join(container: &Container, own_namespaces: &OwnedFd, task: &Task) -> Result<sys::Fork> {
    if matches!(container.state, State::Over) {
        return failure("the container has ended");
    }
    if *task != Task::Program {
        return sys::fork(0, None).context(|| "start a task".to_owned());
    }
    let fork = || -> std::result::Result<sys::Fork, Errno> {
        sys::enter_namespaces(&container.namespaces, libc::CLONE_NEWPID)?;
        let fork = sys::fork(0, Some(container.cgroup.as_fd()));
        if !matches!(fork, Ok(sys::Fork::Child)) {
            sys::enter_namespaces(own_namespaces, libc::CLONE_NEWPID)?;
        }
        fork
    };
    fork().context(|| "join the container's namespaces".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_component() {
        for (name, valid) in [("a1", true), ("", false), ("..", false), ("a/b", false), ("A", false), ("é", false)] {
            assert_eq!(is_valid(&ContainerId(name.to_owned())), valid, "{name}");
        }
        assert!(is_valid(&ContainerId("f".repeat(64))) && !is_valid(&ContainerId("f".repeat(65))));
    }
}
