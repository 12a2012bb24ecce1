//! Programs that serve a device of a machine from outside of it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

/// The name of the socket, for the moment that it has one.
const SOCKET_NAME: &str = "files.sock";

/// A program that serves a machine's shared files behind vhost-user, as `virtiofsd` does. It is started with the
/// machine, in its cgroup, and ends with it; if it ends before, so does the machine.
///
/// Its standard input is a listening Unix socket with one connection, the machine's.
#[derive(Debug, Clone)]
pub struct FileDaemon {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// A directory that nobody else may enter: the socket has a name in it until it is connected.
    pub directory: PathBuf,
}

/// A socket that listens and one that is connected to it, which nobody else can be from now on.
pub(crate) fn listening(daemon: &FileDaemon) -> io::Result<(OwnedFd, OwnedFd)> {
    let directory = fs::File::open(&daemon.directory)?;
    // A path of its own may be longer than an address can be.
    let path = format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    let connected = UnixStream::connect(&path);
    fs::remove_file(&path)?;
    Ok((listener.into(), connected?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_connected_and_nameless() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("long".repeat(50));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join(SOCKET_NAME), "left behind").unwrap();
        let daemon = FileDaemon { program: PathBuf::new(), arguments: Vec::new(), directory: directory.clone() };
        let (listener, connected) = listening(&daemon).unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        let (accepted, _) = UnixListener::from(listener).accept().unwrap();
        io::Write::write_all(&mut UnixStream::from(connected), b"hello").unwrap();
        assert_eq!(io::read_to_string(accepted).unwrap(), "hello");
    }
}
