//! From a process inside the container's namespaces to the program: terminal, limits, directory, user, capabilities.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use protocol::{ProcessSpec, SpawnError, Task};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::accounts::{self, Identity};
use crate::channel::Channel;
use crate::paths::{make_directory_in_root, read_regular_file};
use crate::{container_init, mounts, search, sys, unpack};

/// What a container gets where the host says nothing, as under systemd: `RLIMIT_NOFILE`, `RLIMIT_NPROC`.
const DEFAULT_LIMITS: [(u32, u64, u64); 2] = [(7, 1024, 524_288), (6, u64::MAX, u64::MAX)];

/// What a process is made of, apart from its specification.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Standard input, output and error.
    pub(crate) stdio: [OwnedFd; 3],
    /// Whether they are a terminal.
    pub(crate) terminal: bool,
    /// Whether this is the container's first process.
    pub(crate) first: bool,
    /// Guest init's own program, for [`ProcessSpec::init`].
    pub(crate) own_program: OwnedFd,
    /// Where failures are said. Closed by a successful exec.
    pub(crate) channel: Channel,
}

/// Becomes the program or the task, or says why not and ends.
pub(crate) fn run(spec: &ProcessSpec, parts: Parts) -> ! {
    if let Task::Unpack { directory, no_overwrite_dir_non_dir } = &spec.task {
        run_unpack(directory, *no_overwrite_dir_non_dir, parts)
    }
    let parts = &parts;
    let Err(error) = prepare(spec, parts).and_then(|prepared| execute(spec, prepared, parts));
    parts.channel.say_failed(error);
    sys::exit(125)
}

/// The task; its channel closes when it begins, as that of a program does.
fn run_unpack(directory: &str, no_overwrite_dir_non_dir: bool, parts: Parts) -> ! {
    if let Err(error) = take_stdio(&parts) {
        parts.channel.say_failed(error);
        sys::exit(125)
    }
    parts.channel.say_executing();
    drop(parts);
    sys::close_all_but(3, &mut []);
    sys::reset_signals();
    sys::exit(unpack::run(directory, no_overwrite_dir_non_dir))
}

/// Joins a running container, then as [`run`]. The PID namespace was joined by the fork.
pub(crate) fn run_joined(spec: &ProcessSpec, parts: Parts, container: &OwnedFd) -> ! {
    let mut kept = parts.descriptors();
    kept.push(container.as_raw_fd());
    sys::close_all_but(3, &mut kept);
    // Through guest init's /proc, which is still in sight.
    let score = spec.oom_score_adj.to_string();
    let unprotected = std::fs::write("/proc/self/oom_score_adj", score).map_err(|error| error.to_string());
    let joined = unprotected
        .and_then(|()| sys::enter_namespaces(container, sys::JOINED_NAMESPACES).map_err(|errno| errno.to_string()));
    match joined {
        Ok(()) => run(spec, parts),
        Err(error) => {
            parts.channel.say_failed(SpawnError::Other(format!("join the container: {error}")));
            sys::exit(125)
        }
    }
}

struct Prepared {
    program: PathBuf,
    argv: Vec<CString>,
    env: Vec<CString>,
    filter: Option<Vec<libc::sock_filter>>,
}

fn other(what: &str) -> impl Fn(Errno) -> SpawnError + '_ {
    move |errno| SpawnError::Other(format!("{what}: {errno}"))
}

fn prepare(spec: &ProcessSpec, parts: &Parts) -> Result<Prepared, SpawnError> {
    let argv = c_strings(&spec.argv, "argument")?;
    let command = spec.argv.first().ok_or_else(|| SpawnError::NotFound("exec: there is no command".to_owned()))?;
    let filter = match &spec.seccomp {
        Some(program) => Some(sys::seccomp_filter(program).ok_or_else(no_filter)?),
        None => None,
    };
    sys::new_session_keyring();
    take_stdio(parts)?;
    if parts.first && spec.oom_score_adj != 0 {
        // The first process is in the container's own /proc, in which nobody else has been.
        std::fs::write("/proc/self/oom_score_adj", spec.oom_score_adj.to_string())
            .map_err(|error| SpawnError::Other(format!("set oom_score_adj to {}: {error}", spec.oom_score_adj)))?;
    }
    for (resource, soft, hard) in DEFAULT_LIMITS {
        // Nobody asked for these: what is in force may stay.
        let _ = sys::set_limit(resource, soft, hard);
    }
    for limit in &spec.rlimits {
        let what = format!("set resource limit {} to {}:{}", limit.resource, limit.soft, limit.hard);
        sys::set_limit(limit.resource, limit.soft, limit.hard).map_err(other(&what))?;
    }
    enter_directory(&spec.cwd)?;
    let identity = look_up_user(spec)?;
    // Programs reopen their stdio through /proc, which needs its owner's permission.
    for stream in &parts.stdio {
        give_to(stream, identity.uid);
    }
    let env = environment(spec, &identity)?;
    let keeps_admin = filter.is_some() && !spec.no_new_privileges;
    become_user(&identity, spec.capabilities.bounding, keeps_admin).map_err(other("change to the user"))?;
    if spec.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(other("set no_new_privs"))?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let program = search::find(command, &spec.env, search::check_executable)?;
    Ok(Prepared { program, argv, env, filter })
}

fn no_filter() -> SpawnError {
    SpawnError::Other("the seccomp filter has no or too many instructions, or a part of one".to_owned())
}

/// The session, the controlling terminal and descriptors 0 to 2.
fn take_stdio(parts: &Parts) -> Result<(), SpawnError> {
    let [stdin, stdout, stderr] = &parts.stdio;
    rustix::process::setsid().map_err(other("make a session"))?;
    if parts.terminal {
        rustix::process::ioctl_tiocsctty(stdin).map_err(other("take the terminal"))?;
        if parts.first {
            mounts::mount_console(stdin.as_fd()).map_err(|failure| SpawnError::Other(failure.0))?;
        }
    }
    let take = || -> Result<(), Errno> {
        rustix::stdio::dup2_stdin(stdin)?;
        rustix::stdio::dup2_stdout(stdout)?;
        rustix::stdio::dup2_stderr(stderr)
    };
    take().map_err(other("set up standard streams"))
}

/// CVE-2024-21626: the directory is looked up inside the root, without magic links, and is entered by descriptor.
fn enter_directory(cwd: &str) -> Result<(), SpawnError> {
    let failed = |reason: String| SpawnError::WorkingDirectory(format!("working directory {cwd:?}: {reason}"));
    if !cwd.is_empty() && !cwd.starts_with('/') {
        return Err(failed("not an absolute path".to_owned()));
    }
    let enter = || -> Result<(), Errno> {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let (directory, _) = make_directory_in_root(root.as_fd(), Path::new(cwd))?;
        rustix::process::fchdir(directory)
    };
    enter().map_err(|errno| failed(errno.to_string()))
}

fn look_up_user(spec: &ProcessSpec) -> Result<Identity, SpawnError> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(other("open the root"))?;
    let read = |path| read_regular_file(root.as_fd(), path);
    let look_up =
        || accounts::look_up(&spec.user, &spec.additional_groups, &read("/etc/passwd")?, &read("/etc/group")?);
    look_up().map_err(SpawnError::UnknownUser)
}

fn give_to(stream: &OwnedFd, uid: u32) {
    let is_null = rustix::fs::fstat(stream).is_ok_and(|stat| stat.st_rdev == rustix::fs::makedev(1, 3));
    if !is_null && uid != 0 {
        // A stream that cannot change hands still works; only reopening it does not.
        let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None);
    }
}

fn environment(spec: &ProcessSpec, identity: &Identity) -> Result<Vec<CString>, SpawnError> {
    let mut env = c_strings(&spec.env, "environment entry")?;
    if !spec.env.iter().any(|entry| entry.starts_with(b"HOME=")) {
        let home = [b"HOME=", identity.home.as_slice()].concat();
        env.push(CString::new(home).map_err(|_| SpawnError::Other("home directory contains a NUL byte".to_owned()))?);
    }
    Ok(env)
}

/// `CAP_SYS_ADMIN` as a bit mask.
const ADMIN: u64 = 1 << 21;

/// `keeps_admin`: keeps what a seccomp filter needs, until the program is executed. Then the bounding set and the user
/// decide what is left, so that nothing has to be called behind the filter.
fn become_user(identity: &Identity, capabilities: u64, keeps_admin: bool) -> Result<(), Errno> {
    let kept = if keeps_admin { ADMIN } else { 0 };
    rustix::thread::set_keep_capabilities(keeps_admin)?;
    sys::limit_bounding_set(capabilities)?;
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    rustix::thread::set_thread_groups(&groups)?;
    let gid = Gid::from_raw(identity.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(identity.uid);
    // Leaving uid 0 clears the effective and ambient sets, and the permitted one unless it is kept.
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    if identity.uid == 0 {
        sys::set_capabilities(capabilities | kept)?;
    } else if keeps_admin {
        sys::set_capabilities(kept)?;
    }
    Ok(())
}

fn execute(spec: &ProcessSpec, prepared: Prepared, parts: &Parts) -> Result<Infallible, SpawnError> {
    let Prepared { program, argv, env, filter } = prepared;
    let path = CString::new(program.as_os_str().as_bytes())
        .map_err(|_| SpawnError::NotFound("exec: the command contains a NUL byte".to_owned()))?;
    let command = spec.argv.first().map_or(&b""[..], Vec::as_slice);
    sys::close_on_exec(3);
    parts.channel.say_executing();
    if !spec.init {
        sys::reset_signals();
    }
    if let Some(mut filter) = filter {
        sys::set_seccomp(&mut filter).map_err(other("put the seccomp filter in force"))?;
    }
    if spec.init {
        // Guest init's program once more, so that nothing of this process's memory stays.
        let errno = container_init::execute(&parts.own_program, &parts.channel, &path, &argv, &env);
        return Err(SpawnError::Other(format!("run the container's init: {errno}")));
    }
    Err(search::exec_error(command, sys::execute(None, &path, &argv, &env)))
}

fn c_strings(strings: &[Vec<u8>], what: &str) -> Result<Vec<CString>, SpawnError> {
    let make = |(index, string): (usize, &Vec<u8>)| {
        CString::new(string.as_slice()).map_err(|_| SpawnError::Other(format!("{what} {index} contains a NUL byte")))
    };
    strings.iter().enumerate().map(make).collect()
}

impl Parts {
    /// The descriptors that it needs, for [`sys::close_all_but`].
    pub(crate) fn descriptors(&self) -> Vec<i32> {
        let others = [self.own_program.as_raw_fd(), self.channel.as_fd().as_raw_fd()];
        self.stdio.iter().map(AsRawFd::as_raw_fd).chain(others).collect()
    }
}
