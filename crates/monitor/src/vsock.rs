//! The host's end of the hand-over of vsock connections ([`machine::vsock`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use machine::vsock::{decode_port, encode_port};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SendFlags, SocketType, sockopt};
use thiserror::Error;

use crate::seqpacket;

/// Opens connections to ports of the guest, and takes those that the guest opens to ports of the host.
///
/// As a descriptor it is readable when [`try_accept`](Self::try_accept) has something to say.
#[derive(Debug)]
pub struct VsockChannel(OwnedFd);

/// A connection that did not come to be.
#[derive(Debug, Error)]
pub enum VsockError {
    /// The machine process is gone, or has closed the channel.
    #[error("the machine's vsock channel is closed")]
    Closed,
    /// Nothing came before the deadline.
    #[error("no vsock connection from the guest in time")]
    TimedOut,
    /// The machine process does not take connections at the moment.
    #[error("the machine process takes no vsock connections")]
    Congested,
    /// The machine process handed over something else than a connection. It is dropped; the channel goes on.
    #[error("malformed vsock hand-over: {0}")]
    Malformed(&'static str),
    /// The host refused.
    #[error("vsock channel")]
    Io(#[from] io::Error),
}

impl VsockChannel {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Takes a connection that the guest opened, with the host port that it is for, without waiting.
    ///
    /// # Errors
    ///
    /// [`VsockError::Malformed`] for what is no connection, [`VsockError::Closed`] at the end.
    pub fn try_accept(&self) -> Result<Option<(u32, UnixStream)>, VsockError> {
        // One byte more than a port, so that a longer datagram is seen as one.
        let mut buffer = [0; 5];
        let datagram = match seqpacket::receive(&self.0, &mut buffer) {
            Ok(None) => return Ok(None),
            Ok(Some(datagram)) => datagram,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(VsockError::Closed),
            Err(error) => return Err(error.into()),
        };
        if datagram.length == 0 {
            return Err(VsockError::Closed);
        }
        let port = decode_port(&buffer[..datagram.length]);
        let port = port.filter(|_| !datagram.truncated).ok_or(VsockError::Malformed("not a port"))?;
        let [stream] = <[OwnedFd; 1]>::try_from(datagram.files).map_err(|_| VsockError::Malformed("not one stream"))?;
        Ok(Some((port, unix_stream(stream)?)))
    }

    /// Waits for a connection that the guest opens; for ever without a deadline.
    ///
    /// # Errors
    ///
    /// As [`try_accept`](Self::try_accept), and [`VsockError::TimedOut`].
    pub fn accept(&self, deadline: Option<Instant>) -> Result<(u32, UnixStream), VsockError> {
        loop {
            if let Some(connection) = self.try_accept()? {
                return Ok(connection);
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(VsockError::TimedOut);
            }
            let timeout = left.and_then(|left| left.try_into().ok());
            match rustix::event::poll(&mut [PollFd::new(&self.0, PollFlags::IN)], timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(VsockError::Io(error.into())),
            }
        }
    }

    /// Opens a connection to a port of the guest. It returns before the guest has answered: where nobody
    /// listens, the stream ends at once.
    ///
    /// # Errors
    ///
    /// [`VsockError::Closed`] when the machine is gone, [`VsockError::Congested`] when its process does not
    /// empty the channel.
    pub fn connect(&self, port: u32) -> Result<UnixStream, VsockError> {
        let (ours, theirs) = UnixStream::pair()?;
        match seqpacket::send(&self.0, &encode_port(port), &[theirs.as_fd()], SendFlags::DONTWAIT) {
            Ok(()) => Ok(ours),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Err(VsockError::Congested),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Err(VsockError::Closed),
                _ => Err(error.into()),
            },
        }
    }
}

impl AsFd for VsockChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A machine process may hand over any descriptor it has. Only a stream between processes of this host is
/// what was agreed: reading a file or a device here could block for ever.
fn unix_stream(file: OwnedFd) -> Result<UnixStream, VsockError> {
    let is_stream = sockopt::socket_domain(&file) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(&file) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(&file) == Ok(false);
    if !is_stream {
        return Err(VsockError::Malformed("not a stream socket"));
    }
    let stream = UnixStream::from(file);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use super::*;

    fn channel() -> (VsockChannel, OwnedFd) {
        let (ours, theirs) = seqpacket::pair().unwrap();
        (VsockChannel::new(ours), theirs)
    }

    fn hand_over(machine: &OwnedFd, bytes: &[u8], files: &[BorrowedFd<'_>]) {
        seqpacket::send(machine, bytes, files, SendFlags::empty()).unwrap();
    }

    #[test]
    fn a_guest_connection_arrives_with_its_port() {
        let (channel, machine) = channel();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        hand_over(&machine, &encode_port(1024), &[ours.as_fd()]);
        drop(ours);
        let (port, mut stream) = channel.accept(None).unwrap();
        theirs.write_all(b"hello").unwrap();
        drop(theirs);
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!((port, text.as_str()), (1024, "hello"));
    }

    #[test]
    fn a_host_connection_reaches_the_machine() {
        let (channel, machine) = channel();
        let mut stream = channel.connect(7).unwrap();
        let mut buffer = [0; 8];
        let datagram = seqpacket::receive(&machine, &mut buffer).unwrap().unwrap();
        assert_eq!(decode_port(&buffer[..datagram.length]), Some(7));
        let mut theirs = UnixStream::from(datagram.files.into_iter().next().unwrap());
        theirs.write_all(b"x").unwrap();
        drop(theirs);
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn what_is_no_connection_is_dropped_and_the_channel_goes_on() {
        let (channel, machine) = channel();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        hand_over(&machine, b"abc", &[ours.as_fd()]);
        hand_over(&machine, b"abcdefgh", &[ours.as_fd()]);
        hand_over(&machine, &encode_port(1), &[]);
        hand_over(&machine, &encode_port(1), &[ours.as_fd(), theirs.as_fd()]);
        hand_over(&machine, &encode_port(1), &[ours.as_fd(), theirs.as_fd(), file.as_fd()]);
        hand_over(&machine, &encode_port(1), &[file.as_fd()]);
        hand_over(&machine, &encode_port(1), &[channel.as_fd()]);
        for _ in 0..7 {
            assert!(matches!(channel.try_accept(), Err(VsockError::Malformed(_))));
        }
        hand_over(&machine, &encode_port(9), &[ours.as_fd()]);
        assert_eq!(channel.try_accept().unwrap().unwrap().0, 9);
        assert!(channel.try_accept().unwrap().is_none());
    }

    #[test]
    fn the_end_and_the_deadline_are_told() {
        let (channel, machine) = channel();
        let soon = Instant::now() + Duration::from_millis(20);
        assert!(matches!(channel.accept(Some(soon)), Err(VsockError::TimedOut)));
        drop(machine);
        assert!(matches!(channel.accept(None), Err(VsockError::Closed)));
        assert!(matches!(channel.connect(1), Err(VsockError::Closed)));
    }

    #[test]
    fn a_machine_that_does_not_listen_does_not_hang_the_host() {
        let (channel, _machine) = channel();
        let mut streams = Vec::new();
        let error = loop {
            match channel.connect(1) {
                Ok(stream) => streams.push(stream),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, VsockError::Congested), "{error}");
    }
}
