//! The socket to the monitor: datagrams of the `machine` crate's format, with descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use machine::{CodecError, FILES_PER_MESSAGE, FromMachine, MAX_MESSAGE, ToMachine};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};
use thiserror::Error;

/// How long an answer waits for a monitor that does not read.
const SEND_PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The machine's end of the socket.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What arrived.
#[derive(Debug)]
pub enum Received {
    /// A message with the descriptors that came along.
    Message(ToMachine, Vec<OwnedFd>),
    /// The monitor is gone.
    Closed,
}

impl Channel {
    /// Wraps a connected `SOCK_SEQPACKET` socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Waits for a datagram.
    ///
    /// # Errors
    ///
    /// [`WireError`] if it is no message, was cut off, or the socket fails.
    pub fn receive(&self) -> Result<Received, WireError> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_PER_MESSAGE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(Received::Closed),
                result => break result.map_err(WireError::Receive)?,
            }
        };
        let mut files = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                files.extend(descriptors);
            }
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(WireError::Codec(CodecError::TooLarge(MAX_MESSAGE + 1)));
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(WireError::DescriptorsLost { arrived: files.len() });
        }
        if received.bytes == 0 {
            return Ok(Received::Closed);
        }
        Ok(Received::Message(machine::decode(&bytes[..received.bytes])?, files))
    }

    /// Sends a message, waiting at most a second for room.
    ///
    /// # Errors
    ///
    /// [`WireError`] if the monitor is gone or does not read.
    pub fn send(&self, message: &FromMachine) -> Result<(), WireError> {
        let bytes = machine::encode(message)?;
        loop {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut SendAncillaryBuffer::default(), flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let ready = poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], Some(&SEND_PATIENCE));
                    if matches!(ready, Ok(0)) {
                        return Err(WireError::Send(Errno::TIMEDOUT));
                    }
                }
                Err(error) => return Err(WireError::Send(error)),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What can go wrong between the monitor and a machine process.
#[derive(Debug, Error)]
pub enum WireError {
    /// The socket.
    #[error("cannot receive from the monitor (standard input has to be its socket)")]
    Receive(#[source] Errno),
    /// The socket.
    #[error("cannot answer the monitor")]
    Send(#[source] Errno),
    /// Not a message.
    #[error("a datagram from the monitor is not a message")]
    Codec(#[from] CodecError),
    /// The limit on open files is too low, or there were more than a datagram may carry.
    #[error("descriptors from the monitor were lost ({arrived} arrived); is the limit on open files too low?")]
    DescriptorsLost {
        /// How many arrived.
        arrived: usize,
    },
    /// A `Files` message whose count is not what came along.
    #[error("the monitor announced {announced} descriptors and sent {arrived}")]
    DescriptorCount {
        /// What it said.
        announced: u32,
        /// What it sent.
        arrived: usize,
    },
    /// Something other than files before the order.
    #[error("the monitor sent {0} out of order")]
    OutOfOrder(&'static str),
    /// It closed the socket first.
    #[error("the monitor closed the socket before it said what to run")]
    Closed,
}

/// The name of a message, for errors.
#[must_use]
pub fn name(message: &ToMachine) -> &'static str {
    match message {
        ToMachine::Files { .. } => "Files",
        ToMachine::Launch { .. } => "Launch",
        ToMachine::Serve { .. } => "Serve",
        ToMachine::KernelLog => "KernelLog",
        ToMachine::Stop => "Stop",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::mem::MaybeUninit;

    use rustix::net::{AddressFamily, SendAncillaryMessage, SocketFlags, SocketType, socketpair};

    use super::*;

    /// A monitor's socket and the machine's channel.
    pub(crate) fn pair() -> (OwnedFd, Channel) {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (ours, Channel::new(theirs))
    }

    /// Sends as a monitor does.
    pub(crate) fn send(socket: &OwnedFd, message: &ToMachine, files: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_PER_MESSAGE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(files)));
        }
        let bytes = machine::encode(message).unwrap();
        sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
    }

    #[test]
    fn messages_and_descriptors_arrive_together() {
        let (monitor, channel) = pair();
        let file = tempfile::tempfile().unwrap();
        let files = vec![file.as_fd(); FILES_PER_MESSAGE];
        send(&monitor, &ToMachine::Files { count: 250 }, &files);
        let Received::Message(ToMachine::Files { count: 250 }, files) = channel.receive().unwrap() else { panic!() };
        assert_eq!(files.len(), FILES_PER_MESSAGE);
        drop(monitor);
        assert!(matches!(channel.receive().unwrap(), Received::Closed));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (monitor, channel) = pair();
        for bytes in [&b"\xff\xff\xff"[..], b"\x03trailing"] {
            rustix::net::send(&monitor, bytes, SendFlags::empty()).unwrap();
            assert!(matches!(channel.receive(), Err(WireError::Codec(_))));
        }
        rustix::net::send(&monitor, &vec![0; MAX_MESSAGE + 1], SendFlags::empty()).unwrap();
        assert!(matches!(channel.receive(), Err(WireError::Codec(CodecError::TooLarge(_)))));
        send(&monitor, &ToMachine::Stop, &[]);
        assert!(matches!(channel.receive().unwrap(), Received::Message(ToMachine::Stop, _)));
    }

    #[test]
    fn a_monitor_that_does_not_read_does_not_hold_us() {
        let (_monitor, channel) = pair();
        let answer = FromMachine::KernelLog(vec![0; 64 << 10]);
        let start = std::time::Instant::now();
        while channel.send(&answer).is_ok() {}
        assert!(start.elapsed() < std::time::Duration::from_secs(5));
    }
}
