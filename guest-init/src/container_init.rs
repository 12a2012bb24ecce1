//! The small init of a container that asks for one: PID 1 that starts the program, forwards signals to it, reaps
//! orphans and ends as the program did.
//!
//! It is guest init's program executed anew, so that it holds nothing of guest init's memory.

use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use protocol::SpawnError;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};

use crate::channel::Channel;
use crate::{search, sys};

/// The name (argument 0) by which the program is told what it is.
const NAME: &CStr = c"coracle-container-init";

/// Becomes the container's init, which will execute `program`. Returns only on failure.
pub(crate) fn execute(
    own_program: &OwnedFd,
    channel: &Channel,
    program: &CStr,
    argv: &[CString],
    env: &[CString],
) -> Errno {
    if let Err(errno) = sys::keep_on_exec(channel) {
        return errno;
    }
    let Ok(number) = CString::new(channel.as_fd().as_raw_fd().to_string()) else { return Errno::INVAL };
    let mut arguments = vec![NAME.to_owned(), number, program.to_owned()];
    arguments.extend_from_slice(argv);
    sys::execute(Some(own_program.as_fd()), c"", &arguments, env)
}

/// Does its work if the arguments say that this is a container's init.
pub fn run_if_asked(arguments: Vec<OsString>) {
    let mut arguments = arguments.into_iter().map(OsString::into_vec);
    if arguments.next().is_none_or(|name| name != NAME.to_bytes()) {
        return;
    }
    let number = arguments.next().and_then(|number| String::from_utf8(number).ok()?.parse().ok());
    let channel = number.and_then(sys::adopt).map(Channel::from);
    let strings: Option<Vec<CString>> = arguments.map(|argument| CString::new(argument).ok()).collect();
    match (channel, strings.as_deref()) {
        (Some(channel), Some([program, argv @ ..])) => run(channel, program, argv, &sys::environment()),
        _ => sys::exit(125),
    }
}

fn run(channel: Channel, program: &CStr, argv: &[CString], env: &[CString]) -> ! {
    sys::block_signals();
    let child = match sys::fork(0, None) {
        Ok(sys::Fork::Child) => start(&channel, program, argv, env),
        Ok(sys::Fork::Parent(child)) => child,
        Err(errno) => {
            channel.say_failed(SpawnError::Other(format!("fork: {errno}")));
            sys::exit(125)
        }
    };
    drop(channel);
    sys::close_all_but(0, &mut []);
    loop {
        match sys::wait_for_signal() {
            Ok(libc::SIGCHLD) => reap(child),
            // The kernel's own business with a terminal; the child has its own.
            Ok(libc::SIGTTIN | libc::SIGTTOU | libc::SIGTSTP) | Err(_) => {}
            Ok(signal) => drop(sys::kill(child.as_raw_pid(), signal)),
        }
    }
}

/// The child: a process group of its own, in the foreground of the terminal if there is one.
fn start(channel: &Channel, program: &CStr, argv: &[CString], env: &[CString]) -> ! {
    let own = rustix::process::getpid();
    let _ = rustix::process::setpgid(None, None);
    // No terminal is no failure. SIGTTOU is blocked, so the call does not stop this process.
    let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), own);
    sys::close_on_exec(3);
    sys::reset_signals();
    let errno = sys::execute(None, program, argv, env);
    let command = argv.first().map_or(&b""[..], |command| command.to_bytes());
    channel.say_failed(search::exec_error(command, errno));
    sys::exit(125)
}

/// Reaps all that ended; ends when the child did.
fn reap(child: Pid) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == child {
            sys::exit(exit_code(status));
        }
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(125)
}
