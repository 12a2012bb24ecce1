//! Fills the guest's receive queue.

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestMemoryMmap, Permissions};

use super::connection::Received;
use super::engine::Engine;
use super::packet::{HEADER_SIZE, Header, Operation, PAYLOAD_MAX};
use super::table::Slot;
use crate::buffers::Buffers;
use crate::chain::{self, Popped, QueueError};
use crate::device::feature;

/// Receive buffers used between two looks at whether the driver wants to be told.
const BATCH: usize = 64;

/// A receive buffer that has room for a header.
struct Target<'m> {
    head: u16,
    header: Buffers<'m>,
    body: Buffers<'m>,
}

impl Target<'_> {
    /// Finishes a packet whose payload, `header.len` bytes, is in place.
    fn complete(mut self, header: &Header, queue: &mut Queue, memory: &GuestMemoryMmap) -> Result<(), QueueError> {
        self.header.put(&header.encode());
        let size = u32::try_from(HEADER_SIZE).unwrap_or(0);
        Ok(queue.add_used(memory, self.head, size.saturating_add(header.len))?)
    }
}

/// What [`Engine::target`] found.
enum Found<'m> {
    Target(Target<'m>),
    Unusable(u16),
    Nothing,
}

impl Engine {
    /// Gives the guest what is due to it; whether any buffer was used. More may be left.
    ///
    /// # Errors
    ///
    /// [`QueueError`] if the driver broke the ring.
    pub fn process_receive(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, QueueError> {
        self.starved = false;
        let before = queue.next_used();
        while !self.starved && usize::from(queue.next_used().wrapping_sub(before)) < BATCH {
            if let Some(reply) = self.replies.front().copied() {
                if self.put(&reply, memory, queue)? {
                    self.replies.pop_front();
                }
            } else if let Some(slot) = self.ready.pop_front() {
                self.serve_connection(slot, memory, queue)?;
            } else {
                break;
            }
        }
        Ok(queue.next_used() != before)
    }

    fn serve_connection(&mut self, slot: Slot, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<(), QueueError> {
        let guest_cid = self.guest_cid;
        let Some(connection) = self.connection(slot) else { return Ok(()) };
        connection.queued = false;
        if let Some((operation, flags)) = connection.control() {
            let header = connection.header(guest_cid, operation, flags, 0);
            if self.put(&header, memory, queue)? {
                if let Some(connection) = self.connection(slot) {
                    connection.sent_control(operation, flags);
                }
            } else if let Some(connection) = self.connection(slot) {
                // What `header` took for told was not: say it next time.
                connection.credit_requested();
            }
        } else if connection.has_work() {
            self.give_data(slot, memory, queue)?;
        }
        self.enqueue(slot);
        Ok(())
    }

    /// Puts a packet without payload into the next receive buffer; `false` if there is none.
    fn put(&mut self, header: &Header, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, QueueError> {
        loop {
            match self.target(memory, queue)? {
                Found::Target(target) => return target.complete(header, queue, memory).map(|()| true),
                Found::Unusable(head) => queue.add_used(memory, head, 0)?,
                Found::Nothing => return Ok(false),
            }
        }
    }

    fn target<'m>(&mut self, memory: &'m GuestMemoryMmap, queue: &mut Queue) -> Result<Found<'m>, QueueError> {
        let indirect = self.features & feature::INDIRECT_DESC != 0;
        match chain::pop(queue, memory, indirect, &mut self.chain)? {
            Popped::Empty => {
                self.starved = true;
                Ok(Found::Nothing)
            }
            Popped::Malformed { head, .. } => Ok(Found::Unusable(head)),
            Popped::Chain => {
                let head = self.chain.head();
                let buffers = Buffers::new(memory, self.chain.writable(), Permissions::Write);
                let Some(mut body) = buffers.filter(|buffers| buffers.len() > HEADER_SIZE) else {
                    return Ok(Found::Unusable(head));
                };
                Ok(Found::Target(Target { head, header: body.split_front(HEADER_SIZE), body }))
            }
        }
    }

    /// Reads from a connection's stream into as many receive buffers as it has credit and bytes for, with one
    /// system call; buffers that got none go back to the queue.
    fn give_data(&mut self, slot: Slot, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<(), QueueError> {
        let guest_cid = self.guest_cid;
        let Some((credit, gather)) = self.connection(slot).map(|c| (c.credit(), c.gather())) else { return Ok(()) };
        let mut targets = Vec::with_capacity(gather);
        let mut body = Buffers::default();
        while targets.len() < gather && body.len() < credit {
            match self.target(memory, queue)? {
                Found::Target(mut target) => {
                    let room = target.body.split_front(PAYLOAD_MAX.min(credit - body.len()));
                    targets.push((target, room.len()));
                    body.append(room);
                }
                Found::Unusable(head) if targets.is_empty() => queue.add_used(memory, head, 0)?,
                Found::Unusable(_) => {
                    chain::unpop(queue, 1);
                    break;
                }
                Found::Nothing => break,
            }
        }
        if targets.is_empty() {
            return Ok(());
        }
        let unused = u16::try_from(targets.len()).unwrap_or(0);
        let Some(connection) = self.table.get(slot) else { return Ok(()) };
        let Received::Bytes(mut left) = connection.receive(&body) else {
            chain::unpop(queue, unused);
            self.starved = false;
            return Ok(());
        };
        let mut unused = unused;
        for (target, room) in targets {
            let count = room.min(left);
            if count == 0 {
                break;
            }
            left -= count;
            unused -= 1;
            let header = connection.header(guest_cid, Operation::Data, 0, u32::try_from(count).unwrap_or(0));
            target.complete(&header, queue, memory)?;
        }
        chain::unpop(queue, unused);
        self.starved &= unused == 0;
        Ok(())
    }
}
