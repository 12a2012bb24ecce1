//! A device behind vhost-user: another process has the vCPUs and the transport.
//!
//! [`serve`] speaks the protocol over a connected socket until the peer closes it. Rings come up one message at
//! a time, in any order, and go away again; the device is activated when all it requires are there and quiesced
//! before anything that it works on changes:
//!
//! ```text
//!             SET_VRING_{NUM,BASE,ADDR,KICK,ENABLE}: all required rings ready
//!   stopped ───────────────────────────────────────────────────────────────▶ running
//!      ▲                                                                        │
//!      └── GET_VRING_BASE, ENABLE 0, SET_MEM_TABLE, SET_FEATURES, peer closed ──┘
//! ```
//!
//! Call descriptors may change at any time without stopping anything: emulators mask interrupts that way.
//!
//! The peer is not the guest, but it may have been taken over by it: its messages are checked like the guest's.
//! What it can reach is its own memory and the backing of its own devices, which it has anyway.

mod calls;
mod handler;
mod memory;

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use thiserror::Error;
use vhost::vhost_user::{BackendReqHandler, Error as ProtocolError};

pub use memory::MemoryCell;

use self::handler::Handler;
use crate::device::VirtioDevice;

/// Why serving a device over vhost-user ended, other than by its peer closing.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The peer does not speak the protocol, or asked for what cannot be.
    #[error("vhost-user peer: {0}")]
    Protocol(ProtocolError),
}

/// Serves `device` over `socket` until the peer closes it. The guest's memory appears in `memory` when the peer
/// has sent it, and stays there.
///
/// To end it from elsewhere, shut down a clone of the socket.
///
/// # Errors
///
/// [`ServeError`] if the peer breaks the protocol. The device is quiesced in any case.
pub fn serve(device: Box<dyn VirtioDevice>, socket: UnixStream, memory: &MemoryCell) -> Result<(), ServeError> {
    let handler = Arc::new(Mutex::new(Handler::new(device, memory.clone())));
    let mut requests = BackendReqHandler::from_stream(socket, handler);
    loop {
        match requests.handle_request() {
            Ok(()) => {}
            Err(ProtocolError::Disconnected | ProtocolError::SocketBroken(_)) => return Ok(()),
            Err(ProtocolError::SocketRetry(_)) => {}
            // A request that was refused. Where the peer wants to know, it was told; where it does not, it goes on
            // as it would with a device that does nothing.
            Err(ProtocolError::ReqHandlerError(_)) => {}
            Err(error) => return Err(ServeError::Protocol(error)),
        }
    }
}

#[cfg(test)]
mod tests;
