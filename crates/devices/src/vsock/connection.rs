//! One vsock connection: the guest's flow control on one side, a host stream on the other.
//!
//! ```text
//!   host datagram ──▶ Requested ──RESPONSE──▶ Established ──RST, SHUTDOWN both──▶ Orphan ──all written──▶ gone
//!                         │ RST                    ▲                                │ host closed
//!                         ▼                        │                                ▼
//!                       gone            guest REQUEST, RESPONSE due                gone
//! ```
//!
//! Bytes for the host that its socket does not take at once wait in a backlog of at most `buf_alloc` bytes: the
//! guest may not send more than that, and is reset if it does. Bytes for the guest stay in the host's socket
//! until the guest has credit for them. An orphan is a connection that the guest is done with and whose backlog
//! the host has not yet read.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::num::Wrapping;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown, sendmsg};

use super::packet::{Header, Operation, TYPE_STREAM, shutdown};
use crate::buffers::Buffers;

/// Chains gathered for a stream that has said little so far, and at most.
const GATHER_MIN: usize = 4;
const GATHER_MAX: usize = 64;

/// The two ports that name a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Requested,
    Established,
    Orphan,
}

/// The guest sent more than it had credit for, or sent after it said it would not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation;

/// What came of receiving from the host.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Bytes(usize),
    Nothing,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: Key,
    pub(super) phase: Phase,
    /// Whether it is in the engine's list of connections with something for the guest.
    pub(super) queued: bool,
    pub(super) buf_alloc: u32,
    stream: OwnedFd,

    readable: bool,
    host_ended: bool,
    sent: Wrapping<u32>,
    guest_buf_alloc: u32,
    guest_fwd_cnt: Wrapping<u32>,
    gather: usize,

    backlog: VecDeque<u8>,
    writable: bool,
    host_gone: bool,
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    told: Wrapping<u32>,

    guest_shutdown: u32,
    opening: Option<Operation>,
    credit_due: bool,
    shutdown_due: u32,
    shutdown_told: u32,
}

impl Connection {
    /// `opening` is the packet that the guest is to get first: a request or a response.
    pub(super) fn new(key: Key, stream: OwnedFd, buf_alloc: u32, opening: Operation) -> Self {
        let phase = if opening == Operation::Request { Phase::Requested } else { Phase::Established };
        Self {
            key,
            phase,
            queued: false,
            buf_alloc,
            stream,
            readable: false,
            host_ended: false,
            sent: Wrapping(0),
            guest_buf_alloc: 0,
            guest_fwd_cnt: Wrapping(0),
            gather: GATHER_MIN,
            backlog: VecDeque::new(),
            writable: true,
            host_gone: false,
            received: Wrapping(0),
            forwarded: Wrapping(0),
            told: Wrapping(0),
            guest_shutdown: 0,
            opening: Some(opening),
            credit_due: false,
            shutdown_due: 0,
            shutdown_told: 0,
        }
    }

    pub(super) fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Takes the guest's account of its buffer out of any packet.
    pub(super) fn learn(&mut self, header: &Header) {
        self.guest_buf_alloc = header.buf_alloc;
        self.guest_fwd_cnt = Wrapping(header.fwd_cnt);
    }

    /// How many bytes the guest has room for. A guest that lies only starves itself.
    pub(super) fn credit(&self) -> usize {
        let in_flight = (self.sent - self.guest_fwd_cnt).0;
        usize::try_from(self.guest_buf_alloc.saturating_sub(in_flight)).unwrap_or(0)
    }

    /// Whether there is something to put into the guest's receive queue.
    pub(super) fn has_work(&self) -> bool {
        let data = self.readable && self.credit() > 0 && self.guest_shutdown & shutdown::RECEIVE == 0;
        match self.phase {
            Phase::Requested => self.opening.is_some(),
            Phase::Established => {
                self.opening.is_some() || self.credit_due || self.shutdown_due != self.shutdown_told || data
            }
            Phase::Orphan => false,
        }
    }

    /// The packet without payload that is due, if any. [`Self::sent_control`] says that it went out.
    pub(super) fn control(&self) -> Option<(Operation, u32)> {
        if let Some(opening) = self.opening {
            Some((opening, 0))
        } else if self.phase != Phase::Established {
            None
        } else if self.shutdown_due != self.shutdown_told {
            Some((Operation::Shutdown, self.shutdown_due))
        } else if self.credit_due {
            Some((Operation::CreditUpdate, 0))
        } else {
            None
        }
    }

    pub(super) fn sent_control(&mut self, operation: Operation, flags: u32) {
        match operation {
            Operation::Shutdown => self.shutdown_told = flags,
            Operation::CreditUpdate => {}
            _ => self.opening = None,
        }
    }

    /// A header for the guest. It tells how much was forwarded, so it also is a credit update.
    pub(super) fn header(&mut self, guest_cid: u64, operation: Operation, flags: u32, len: u32) -> Header {
        self.told = self.forwarded;
        self.credit_due = false;
        Header {
            src_cid: u64::from(machine::vsock::HOST_CID),
            dst_cid: guest_cid,
            src_port: self.key.host_port,
            dst_port: self.key.guest_port,
            len,
            kind: TYPE_STREAM,
            op: operation as u16,
            flags,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.forwarded.0,
        }
    }

    /// The guest wants to know its credit.
    pub(super) fn credit_requested(&mut self) {
        self.credit_due = true;
    }

    /// How many receive chains to offer to the host's stream at once.
    pub(super) fn gather(&self) -> usize {
        self.gather
    }

    /// Reads from the host into guest memory.
    pub(super) fn receive(&mut self, target: &Buffers<'_>) -> Received {
        match target.receive(self.stream.as_fd()) {
            Ok(0) => self.host_ended(),
            Ok(count) => {
                self.gather = if count == target.len() { (self.gather * 2).min(GATHER_MAX) } else { GATHER_MIN };
                self.sent += Wrapping(u32::try_from(count).unwrap_or(u32::MAX));
                return Received::Bytes(count);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(_) => {
                self.host_ended();
                self.host_gone();
            }
        }
        Received::Nothing
    }

    /// Forwards what the guest sent, or keeps it until the host's socket has room.
    pub(super) fn deliver(&mut self, mut payload: Buffers<'_>) -> Result<(), Violation> {
        let length = Wrapping(u32::try_from(payload.len()).map_err(|_| Violation)?);
        let occupied = self.received - self.forwarded;
        let room = self.buf_alloc.saturating_sub(occupied.0);
        if length.0 > room || self.guest_shutdown & shutdown::SEND != 0 {
            return Err(Violation);
        }
        self.received += length;
        if self.backlog.is_empty() && self.writable && !self.host_gone && !payload.is_empty() {
            match payload.send(self.stream.as_fd()) {
                Ok(count) => {
                    payload.advance(count);
                    self.writable = payload.is_empty();
                    self.forward(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(_) => self.host_gone(),
            }
        }
        if self.host_gone {
            self.forward(payload.len());
        } else {
            payload.drain_into(&mut self.backlog);
        }
        Ok(())
    }

    /// The guest's half-close; whether it closed both halves.
    pub(super) fn shut_down(&mut self, flags: u32) -> bool {
        self.guest_shutdown |= flags & shutdown::BOTH;
        if self.guest_shutdown & shutdown::RECEIVE != 0 {
            // What the host still sends has nowhere to go: it is to see EPIPE. A closed socket knows already.
            let _ = rustix::net::shutdown(&self.stream, Shutdown::Read);
            self.readable = false;
        }
        self.finish_writing();
        self.guest_shutdown == shutdown::BOTH
    }

    /// The host's stream became ready.
    pub(super) fn on_ready(&mut self, flags: EventFlags) {
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) && !self.host_ended
        {
            self.readable = self.guest_shutdown & shutdown::RECEIVE == 0;
        }
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            self.host_gone();
        }
        if flags.contains(EventFlags::OUT) {
            self.writable = true;
            self.flush();
        }
    }

    /// Whether nothing is left to give to the host.
    pub(super) fn is_drained(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Whether the host closed its end for good.
    pub(super) fn is_host_gone(&self) -> bool {
        self.host_gone
    }

    fn flush(&mut self) {
        while self.writable && !self.host_gone && !self.backlog.is_empty() {
            let (front, back) = self.backlog.as_slices();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let parts = [IoSlice::new(front), IoSlice::new(back)];
            match sendmsg(&self.stream, &parts, &mut SendAncillaryBuffer::default(), flags) {
                Ok(count) => {
                    self.backlog.drain(..count);
                    self.forward(count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => self.writable = false,
                Err(_) => self.host_gone(),
            }
        }
        if self.backlog.is_empty() {
            self.backlog = VecDeque::new();
            self.finish_writing();
        }
    }

    /// Passes the guest's end of stream on once all of the stream was passed on.
    fn finish_writing(&mut self) {
        if self.backlog.is_empty() && self.guest_shutdown & shutdown::SEND != 0 {
            // A closed socket knows already.
            let _ = rustix::net::shutdown(&self.stream, Shutdown::Write);
        }
    }

    fn forward(&mut self, count: usize) {
        self.forwarded += Wrapping(u32::try_from(count).unwrap_or(u32::MAX));
        self.credit_due |= (self.forwarded - self.told).0 >= self.buf_alloc / 2;
    }

    fn host_ended(&mut self) {
        self.readable = false;
        self.host_ended = true;
        self.shutdown_due |= shutdown::SEND;
    }

    fn host_gone(&mut self) {
        self.host_gone = true;
        self.forward(self.backlog.len());
        self.backlog = VecDeque::new();
        self.shutdown_due |= shutdown::RECEIVE;
    }
}

impl Drop for Connection {
    /// What was accepted from the guest goes out as far as the host's socket takes it without waiting.
    fn drop(&mut self) {
        self.writable = true;
        self.flush();
    }
}
