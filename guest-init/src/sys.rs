//! System calls that `rustix` has no safe face for.
#![allow(unsafe_code)]
// UNSAFETY: `clone3`, `execveat`, `unshare`, `setns`, signal masks, socket addresses of AF_VSOCK, capability sets and
// a few others exist in `libc` alone. Guest init is single-threaded, which is what makes a bare `clone3` and `setenv`-
// free children sound.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;

type Result<T> = std::result::Result<T, Errno>;

/// Namespaces that a container has of its own, apart from the cgroup namespace (see [`unshare_cgroup`]).
pub(crate) const CONTAINER_NAMESPACES: c_int =
    libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;

fn check(result: c_long) -> Result<c_long> {
    if result == -1 {
        let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(Errno::from_raw_os_error(code));
    }
    Ok(result)
}

/// Which of the two a [`fork`] returned in.
pub(crate) enum Fork {
    /// The parent; the child's pid.
    Parent(Pid),
    /// The child.
    Child,
}

/// Forks, with new namespaces, into a cgroup.
pub(crate) fn fork(namespaces: c_int, cgroup: Option<BorrowedFd<'_>>) -> Result<Fork> {
    // SAFETY: `clone_args` is plain integers, for which zeros are valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(namespaces.cast_unsigned());
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    if let Some(cgroup) = cgroup {
        arguments.flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: without CLONE_VM and a stack the child is a copy of this process, as of fork(2). The process has one
    // thread, so no lock of the allocator is held by another one.
    let forked = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) });
    let pid = match forked {
        // Seccomp profiles refuse what they cannot look into.
        Err(Errno::NOSYS | Errno::PERM) if namespaces == 0 && cgroup.is_none() => {
            // SAFETY: as above; without a stack and pointers to write to it is fork(2).
            check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) })?
        }
        forked => forked?,
    };
    Ok(i32::try_from(pid).ok().and_then(Pid::from_raw).map_or(Fork::Child, Fork::Parent))
}

/// Ends this process at once.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Executes a program, by a path or (with an empty path) by a descriptor. Returns only on failure.
pub(crate) fn execute(program: Option<BorrowedFd<'_>>, path: &CStr, argv: &[CString], env: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    let directory = program.map_or(libc::AT_FDCWD, |program| program.as_raw_fd());
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: the arrays end with null pointers, and they and their strings outlive the call.
    let result = unsafe {
        if program.is_some() {
            libc::syscall(libc::SYS_execveat, directory, path.as_ptr(), argv.as_ptr(), env.as_ptr(), flags)
        } else {
            // The call that every seccomp profile knows.
            libc::syscall(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), env.as_ptr())
        }
    };
    check(result).err().unwrap_or(Errno::IO)
}

/// The environment as it is, entries without `=` included.
pub(crate) fn environment() -> Vec<CString> {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    let mut entries = Vec::new();
    // SAFETY: nothing in this program changes the environment, whose array ends with a null pointer.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            entries.push(CStr::from_ptr(*entry).to_owned());
            entry = entry.add(1);
        }
    }
    entries
}

/// Enters a cgroup namespace whose root is the cgroup that this process is in.
pub(crate) fn unshare_cgroup() -> Result<()> {
    // SAFETY: does not touch the descriptor table.
    check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }.into()).map(drop)
}

/// Enters namespaces of the process behind a pidfd; a PID namespace takes effect for children.
pub(crate) fn enter_namespaces(target: impl AsFd, namespaces: c_int) -> Result<()> {
    // SAFETY: `target` is open.
    check(unsafe { libc::setns(target.as_fd().as_raw_fd(), namespaces) }.into()).map(drop)
}

/// All namespaces of a running container, apart from its PID namespace.
pub(crate) const JOINED_NAMESPACES: c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP;

/// Closes every descriptor of this process from `first` on, apart from `kept`.
pub(crate) fn close_all_but(first: RawFd, kept: &mut [RawFd]) {
    kept.sort_unstable();
    let mut from = first;
    for &mut fd in kept {
        if fd > from {
            close_range(from, fd - 1, 0);
        }
        from = from.max(fd + 1);
    }
    close_range(from, RawFd::MAX, 0);
}

/// Marks every descriptor from `first` on as closed by an exec.
pub(crate) fn close_on_exec(first: RawFd) {
    close_range(first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC);
}

fn close_range(first: RawFd, last: RawFd, flags: libc::c_uint) {
    // SAFETY: only children that are about to execute call this; what they own of the closed descriptors they
    // neither use nor drop afterwards, for they end by exec or `exit`.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
}

/// Makes a descriptor survive an exec.
pub(crate) fn keep_on_exec(fd: impl AsFd) -> Result<()> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())
}

/// Blocks every signal in this thread.
pub(crate) fn block_signals() {
    // SAFETY: a signal set is plain data that `sigfillset` initialises.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, ptr::null_mut());
    }
}

/// Gives every signal its default disposition and unblocks all.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL runs no code; numbers that cannot be set are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: as above.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// A descriptor that is readable when a child ended. The signal must be blocked.
pub(crate) fn child_signals() -> Result<OwnedFd> {
    // SAFETY: as above; the descriptor is new and owned by nobody else.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
        Ok(OwnedFd::from_raw_fd(i32::try_from(fd).map_err(|_| Errno::BADF)?))
    }
}

/// Waits for any blocked signal.
pub(crate) fn wait_for_signal() -> Result<c_int> {
    // SAFETY: as above; no information is asked for.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        let signal = check(libc::sigwaitinfo(&raw const all, ptr::null_mut()).into())?;
        i32::try_from(signal).map_err(|_| Errno::IO)
    }
}

/// Sends any signal, real-time ones included, to a process or (negative) to a group or to all.
pub(crate) fn kill(pid: i32, signal: c_int) -> Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Begins to connect to a vsock port of the host; [`finish_connect`] ends it.
pub(crate) fn vsock_connect(port: u32) -> Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the descriptor is new and owned by nobody else.
    let socket = unsafe {
        let fd = check(libc::socket(libc::AF_VSOCK, kind, 0).into())?;
        OwnedFd::from_raw_fd(i32::try_from(fd).map_err(|_| Errno::BADF)?)
    };
    // An emulated machine on a busy host may need more than the default of two seconds.
    let timeout = libc::timeval { tv_sec: 30, tv_usec: 0 };
    // SAFETY: the option takes a `timeval`; a kernel that refuses keeps its default.
    unsafe {
        let (option, length) = (6, libc::socklen_t::try_from(size_of_val(&timeout)).unwrap_or(0));
        libc::setsockopt(socket.as_raw_fd(), libc::AF_VSOCK, option, (&raw const timeout).cast(), length);
    }
    // SAFETY: `sockaddr_vm` is plain integers, for which zeros are valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = 40; // AF_VSOCK
    address.svm_cid = libc::VMADDR_CID_HOST;
    address.svm_port = port;
    let length = libc::socklen_t::try_from(size_of_val(&address)).map_err(|_| Errno::INVAL)?;
    // SAFETY: the address is valid for `length` bytes.
    let result = check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) }.into());
    match result {
        Ok(_) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// Sets interface `lo` up.
pub(crate) fn loopback_up() -> Result<()> {
    use rustix::net::{AddressFamily, SocketType, socket};
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: `ifreq` is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = c_char::try_from(b'l').unwrap_or(0);
    request.ifr_name[1] = c_char::try_from(b'o').unwrap_or(0);
    // SAFETY: both requests take an `ifreq` whose flags are the active member.
    unsafe {
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request).into())?;
        request.ifr_ifru.ifru_flags |= libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request).into())?;
    }
    Ok(())
}

/// Whether this process may be traced and its `/proc` files be read by others.
pub(crate) fn set_dumpable(dumpable: bool) {
    // SAFETY: takes integers alone.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, c_long::from(dumpable), 0, 0, 0) };
}

/// Leaves the bounding set no capability that `kept` lacks.
pub(crate) fn limit_bounding_set(kept: u64) -> Result<()> {
    for capability in 0..64_u64 {
        if kept >> capability & 1 == 0 {
            // SAFETY: takes integers alone.
            match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }.into()) {
                Ok(_) => {}
                // Beyond the last capability that this kernel knows.
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

/// Sets the permitted and effective sets to what this process has of `mask`; the inheritable one becomes empty.
pub(crate) fn set_capabilities(mask: u64) -> Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
    let kept = capabilities(None)?.permitted & CapabilitySet::from_bits_retain(mask);
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })
}

/// Syncs a file system and makes whoever writes to it wait, until [`thaw`].
pub(crate) fn freeze(directory: impl AsFd) -> Result<()> {
    // SAFETY: FIFREEZE takes no memory.
    check(unsafe { libc::syscall(libc::SYS_ioctl, directory.as_fd().as_raw_fd(), 0xc004_5877_u64, 0) }).map(drop)
}

/// The end of [`freeze`].
pub(crate) fn thaw(directory: impl AsFd) -> Result<()> {
    // SAFETY: FITHAW takes no memory.
    check(unsafe { libc::syscall(libc::SYS_ioctl, directory.as_fd().as_raw_fd(), 0xc004_5878_u64, 0) }).map(drop)
}

/// Most instructions of a seccomp filter.
const MAX_FILTER: usize = 4096;

/// A filter in the kernel's form, from the bytes of its instructions. `None` if they are none.
pub(crate) fn seccomp_filter(program: &[u8]) -> Option<Vec<libc::sock_filter>> {
    let (instructions, rest) = program.as_chunks::<8>();
    if !rest.is_empty() || !(1..=MAX_FILTER).contains(&instructions.len()) {
        return None;
    }
    let parse = |&[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; 8]| libc::sock_filter {
        code: u16::from_ne_bytes([c0, c1]),
        jt,
        jf,
        k: u32::from_ne_bytes([k0, k1, k2, k3]),
    };
    Some(instructions.iter().map(parse).collect())
}

/// Puts a seccomp filter in force. Needs `CAP_SYS_ADMIN` or `no_new_privs`.
pub(crate) fn set_seccomp(filter: &mut [libc::sock_filter]) -> Result<()> {
    let length = libc::c_ushort::try_from(filter.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: the program points to `len` instructions and outlives the call; the kernel checks them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) }).map(drop)
}

/// Sets a resource limit of this process.
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let old = ptr::null_mut::<c_void>();
    // SAFETY: the limit is valid for reads, the old one is not asked for.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, old) }).map(drop)
}

/// Joins a new session keyring. A kernel without keys has nothing to share.
pub(crate) fn new_session_keyring() {
    // SAFETY: no name, so no memory is read.
    unsafe { libc::syscall(libc::SYS_keyctl, 1, ptr::null::<c_char>()) };
}

/// Adds `MOUNT_ATTR_*` to the mount behind a descriptor.
pub(crate) fn set_mount_attributes(mount: impl AsFd, attributes: u64) -> Result<()> {
    // SAFETY: `mount_attr` is plain integers, for which zeros are valid.
    let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
    change.attr_set = attributes;
    let fd = mount.as_fd().as_raw_fd();
    // SAFETY: the path is empty and the structure has the given size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

/// Adopts a descriptor whose number an earlier program of this process passed on.
pub(crate) fn adopt(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: the probe takes any number.
    let open = unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1;
    // SAFETY: the program that executed this one left the number to it, and nothing here owns it.
    open.then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}
