//! The socket pair over which streams change hands with the host: see [`machine::vsock`].

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use machine::vsock::{decode_port, encode_port};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// Largest datagram that is looked at; a longer one is no port.
const DATAGRAM: usize = 8;

/// What [`receive`] found.
#[derive(Debug)]
pub(super) enum Datagram {
    /// The host wants this stream connected to this port of the guest.
    Connect(u32, OwnedFd),
    /// Not a port with a stream: dropped.
    Malformed,
    /// Nothing for now.
    Nothing,
    /// The host closed its end.
    Closed,
}

/// Takes a datagram from the host, without waiting.
pub(super) fn receive(channel: BorrowedFd<'_>) -> Datagram {
    let mut bytes = [0; DATAGRAM];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let count = match recvmsg(channel, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
        Ok(message) => message.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Datagram::Nothing,
        Err(_) => return Datagram::Closed,
    };
    let mut streams = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            streams.extend(files);
        }
    }
    match (decode_port(&bytes[..count]), streams.pop()) {
        (None, None) if count == 0 => Datagram::Closed,
        (Some(port), Some(stream)) if streams.is_empty() => Datagram::Connect(port, stream),
        _ => Datagram::Malformed,
    }
}

/// Hands the host the stream of a connection that the guest made to `port`. Fails rather than waits.
pub(super) fn send(channel: BorrowedFd<'_>, port: u32, stream: &OwnedFd) -> Result<(), Errno> {
    let rights = [stream.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&rights));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(channel, &[IoSlice::new(&encode_port(port))], &mut ancillary, flags)?;
    Ok(())
}
