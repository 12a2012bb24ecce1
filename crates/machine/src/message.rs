//! The conversation between the monitor and a machine process.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::spec::{FileIndex, MachineSpec};

/// Largest datagram in bytes.
pub const MAX_MESSAGE: usize = 160 << 10;

/// Most descriptors that one datagram carries (Linux allows 253).
pub const FILES_PER_MESSAGE: usize = 250;

/// What the monitor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMachine {
    /// Descriptors travel with this datagram.
    Files {
        /// How many.
        count: u32,
    },
    /// Be this machine (`coracle-vmm machine`).
    Launch {
        /// The machine.
        spec: MachineSpec<FileIndex>,
    },
    /// Serve this machine's devices over vhost-user (`coracle-vmm devices`); another process has the vCPUs.
    Serve {
        /// The machine.
        spec: MachineSpec<FileIndex>,
        /// A connected stream socket per device that speaks vhost-user: the disks in slot order, then vsock.
        sockets: Vec<FileIndex>,
    },
    /// Answer with the kernel log as it is now.
    KernelLog,
    /// End now, without asking the guest.
    Stop,
}

/// What a machine process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromMachine {
    /// The vCPUs start now, or the device sockets are being served.
    Started {
        /// `CLOCK_MONOTONIC`, nanoseconds.
        at: u64,
    },
    /// Answer to [`ToMachine::KernelLog`]: the newest bytes of the log, oldest first.
    KernelLog(Vec<u8>),
    /// The last message.
    Ended(End),
}

/// How a machine ended, as far as the machine process can tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Why.
    pub reason: EndReason,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub at: u64,
    /// The newest bytes of the kernel log, oldest first.
    pub kernel_log: Vec<u8>,
}

/// Why a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// The guest asked for a reset, which is how guest init powers off.
    Reset,
    /// A triple fault.
    TripleFault,
    /// The devices' peer (the emulator) closed its connections.
    PeerClosed,
    /// The monitor said [`ToMachine::Stop`] or closed the socket.
    Stopped,
    /// The machine could not be made: the text names the object.
    Setup(String),
    /// Something failed while the machine ran (a KVM error, an unhandled exit).
    Internal(String),
}

/// A datagram that is no message, or a message that is no datagram.
#[derive(Debug, Error)]
pub enum CodecError {
    /// Over [`MAX_MESSAGE`].
    #[error("machine message of {0} bytes is over the limit of {MAX_MESSAGE}")]
    TooLarge(usize),
    /// Not the encoding of a message.
    #[error("malformed machine message")]
    Malformed(#[from] postcard::Error),
}

/// Encodes one datagram.
///
/// # Errors
///
/// [`CodecError::TooLarge`] if the message does not fit one.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = postcard::to_allocvec(message)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    Ok(bytes)
}

/// Decodes one datagram.
///
/// # Errors
///
/// [`CodecError`] if it is too long or not exactly one message.
pub fn decode<T: DeserializeOwned>(datagram: &[u8]) -> Result<T, CodecError> {
    if datagram.len() > MAX_MESSAGE {
        return Err(CodecError::TooLarge(datagram.len()));
    }
    let (message, rest) = postcard::take_from_bytes(datagram)?;
    if !rest.is_empty() {
        return Err(CodecError::Malformed(postcard::Error::SerdeDeCustom));
    }
    Ok(message)
}
