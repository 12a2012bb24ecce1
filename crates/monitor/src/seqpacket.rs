//! Datagrams with descriptors over a `SOCK_SEQPACKET` Unix socket pair.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Makes a connected pair, both ends close-on-exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Makes a connected pair of stream sockets, both ends close-on-exec.
pub(crate) fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// Sends one datagram with at most [`machine::FILES_PER_MESSAGE`] descriptors.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>], flags: SendFlags) -> io::Result<()> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(files.len().max(1)))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut ancillary, flags | SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// A datagram that arrived.
#[derive(Debug)]
pub(crate) struct Datagram {
    /// Bytes of it, at most as many as the buffer held.
    pub(crate) length: usize,
    /// The bytes or the descriptors were more than there was room for.
    pub(crate) truncated: bool,
    /// What came with it.
    pub(crate) files: Vec<OwnedFd>,
}

/// Receives one datagram without waiting, with room for one descriptor and a little padding: the kernel closes
/// what has no room.
/// `None` when there is none now. A length of 0 is the end.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags)
    });
    let message = match received {
        Ok(message) => message,
        Err(rustix::io::Errno::AGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut files = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            files.extend(rights);
        }
    }
    let truncated = message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Some(Datagram { length: message.bytes, truncated, files }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_arrives_with_its_descriptor() {
        let (here, there) = pair().unwrap();
        let (file, _other) = stream_pair().unwrap();
        send(&here, b"abc", &[file.as_fd()], SendFlags::empty()).unwrap();
        let mut buffer = [0; 16];
        let datagram = receive(&there, &mut buffer).unwrap().unwrap();
        assert_eq!((datagram.length, datagram.truncated, datagram.files.len()), (3, false, 1));
        assert!(receive(&there, &mut buffer).unwrap().is_none());
        drop(here);
        assert_eq!(receive(&there, &mut buffer).unwrap().unwrap().length, 0);
    }

    #[test]
    fn too_much_is_said_to_be_truncated() {
        let (here, there) = pair().unwrap();
        let (one, two) = stream_pair().unwrap();
        let mut buffer = [0; 4];
        send(&here, b"abcdefgh", &[], SendFlags::empty()).unwrap();
        assert!(receive(&there, &mut buffer).unwrap().unwrap().truncated);
        let many = vec![one.as_fd(); 100].into_iter().chain([two.as_fd()]).collect::<Vec<_>>();
        send(&here, b"abc", &many, SendFlags::empty()).unwrap();
        let datagram = receive(&there, &mut buffer).unwrap().unwrap();
        assert!(datagram.truncated);
        assert!(datagram.files.len() < 8, "room for one descriptor, and for a few in its padding");
    }

    #[test]
    fn a_full_batch_of_descriptors_can_be_sent() {
        let (here, _there) = pair().unwrap();
        let (one, _two) = stream_pair().unwrap();
        let batch = vec![one.as_fd(); machine::FILES_PER_MESSAGE];
        send(&here, b"abc", &batch, SendFlags::DONTWAIT).unwrap();
    }
}
