//! Moves packets between the queues and the connections.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestMemoryMmap, Permissions};

use super::channel::{self, Datagram};
use super::connection::{Connection, Key, Phase};
use super::packet::{HEADER_SIZE, Header, Operation, PAYLOAD_MAX, TYPE_STREAM, shutdown};
use super::table::{Slot, Table};
use crate::buffers::Buffers;
use crate::chain::{self, Chain, Popped, QueueError};
use crate::device::{Activation, ActiveQueue, Interrupt, feature};
use crate::worker::{Poller, Ready, STOP, Stop, event_fd};

/// Most resets that wait for receive buffers. A guest that withholds those is not listened to beyond.
const REPLIES_MAX: usize = 256;

/// Most packets taken from the guest between two looks at the other direction.
const TRANSMIT_BATCH: usize = 64;

/// Most streams taken from the host between two looks at the guest.
const CHANNEL_BATCH: usize = 16;

/// Rounds of work between two looks at the host's sockets while there is no reason to sleep.
const ROUNDS: u32 = 8;

const CHANNEL: u64 = u64::MAX - 1;
const KICK: u64 = u64::MAX - 2;

/// A socket device without its thread.
#[derive(Debug)]
pub struct Engine {
    pub(super) guest_cid: u64,
    pub(super) features: u64,
    channel: Option<OwnedFd>,
    channel_ready: bool,
    poller: Poller,
    pub(super) table: Table,
    /// Resets that belong to no connection.
    pub(super) replies: VecDeque<Header>,
    /// Connections that have something for the guest.
    pub(super) ready: VecDeque<Slot>,
    /// The guest has no receive buffer left.
    pub(super) starved: bool,
    pub(super) chain: Chain,
}

impl Engine {
    /// See [`super::Vsock::new`].
    ///
    /// # Errors
    ///
    /// If the host refuses to watch the channel.
    pub fn new(guest_cid: u64, channel: OwnedFd) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(&channel, CHANNEL, EventFlags::IN)?;
        Ok(Self {
            guest_cid,
            features: 0,
            channel: Some(channel),
            channel_ready: true,
            poller,
            table: Table::default(),
            replies: VecDeque::new(),
            ready: VecDeque::new(),
            starved: false,
            chain: Chain::default(),
        })
    }

    /// Sets the features that the driver accepted.
    pub fn accept(&mut self, features: u64) {
        self.features = features;
    }

    /// Connections at present, orphans included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.table.len()
    }

    /// Forgets the guest's connections; what it sent is still given to the host.
    pub fn reset(&mut self) {
        self.replies.clear();
        self.ready.clear();
        self.table.slots().into_iter().for_each(|slot| self.table.retire(slot));
    }

    pub(super) fn watch(&self, queues: &[ActiveQueue], stop: &Stop) -> io::Result<()> {
        self.poller.add(event_fd(stop.event()), STOP, EventFlags::IN)?;
        queues.iter().take(2).try_for_each(|active| self.poller.add(event_fd(&active.kick), KICK, EventFlags::IN))
    }

    fn unwatch(&self, queues: &[ActiveQueue], stop: &Stop) {
        self.poller.remove(event_fd(stop.event()));
        queues.iter().take(2).for_each(|active| self.poller.remove(event_fd(&active.kick)));
    }

    /// The body of the worker.
    pub(super) fn run(&mut self, mut activation: Activation, stop: &Stop) -> Vec<Queue> {
        let broken = match &mut activation.queues[..] {
            [receive, transmit, ..] => {
                let queues = (&mut receive.queue, &mut transmit.queue);
                self.serve(&activation.memory, queues, &*activation.interrupt, stop).is_err()
            }
            _ => true,
        };
        if broken {
            activation.interrupt.needs_reset();
            while !stop.requested() {
                // Nothing is read from here on, so each edge wakes this once.
                self.poller.wait(None);
            }
        }
        self.unwatch(&activation.queues, stop);
        activation.queues.into_iter().map(|active| active.queue).collect()
    }

    fn serve(
        &mut self,
        memory: &GuestMemoryMmap,
        (receive, transmit): (&mut Queue, &mut Queue),
        interrupt: &dyn Interrupt,
        stop: &Stop,
    ) -> Result<(), QueueError> {
        let mut rounds = 0;
        while !stop.requested() {
            transmit.disable_notification(memory)?;
            receive.disable_notification(memory)?;
            let taken = self.process_transmit(memory, transmit);
            notify(1, &taken, transmit, memory, interrupt)?;
            let accepted = self.process_channel();
            let given = self.process_receive(memory, receive);
            notify(0, &given, receive, memory, interrupt)?;
            if taken? | given? | accepted {
                rounds += 1;
                if rounds % ROUNDS == 0 {
                    self.poll(false);
                }
                continue;
            }
            let mut more = self.replies.len() < REPLIES_MAX && transmit.enable_notification(memory)?;
            more |= self.starved && receive.enable_notification(memory)?;
            if !more {
                self.poll(true);
            }
        }
        Ok(())
    }

    /// Looks at the channel and the streams; with `block`, sleeps until there is something to see.
    pub fn poll(&mut self, block: bool) {
        for Ready { token, flags } in self.poller.wait((!block).then_some(Duration::ZERO)) {
            match token {
                STOP | KICK => {}
                CHANNEL => self.channel_ready = true,
                _ => self.on_stream(Slot::from_token(token), flags),
            }
        }
    }

    fn on_stream(&mut self, slot: Slot, flags: EventFlags) {
        let Some(connection) = self.table.get(slot) else { return };
        connection.on_ready(flags);
        let (phase, gone, drained) = (connection.phase, connection.is_host_gone(), connection.is_drained());
        match phase {
            Phase::Orphan if drained || gone => self.table.remove(slot),
            _ => self.enqueue(slot),
        }
    }

    /// Puts a connection into the list of those with something for the guest, if it has.
    pub(super) fn enqueue(&mut self, slot: Slot) {
        if let Some(connection) = self.table.get(slot)
            && !connection.queued
            && connection.has_work()
        {
            connection.queued = true;
            self.ready.push_back(slot);
        }
    }

    /// Takes streams from the host; whether there were any.
    pub fn process_channel(&mut self) -> bool {
        let mut any = false;
        for _ in 0..CHANNEL_BATCH {
            let Some(channel) = self.channel.as_ref().filter(|_| self.channel_ready) else { break };
            if self.replies.len() >= REPLIES_MAX {
                break;
            }
            match channel::receive(channel.as_fd()) {
                Datagram::Connect(port, stream) => self.connect_to_guest(port, stream),
                Datagram::Malformed => {}
                Datagram::Nothing => {
                    self.channel_ready = false;
                    break;
                }
                Datagram::Closed => {
                    self.channel = None;
                    break;
                }
            }
            any = true;
        }
        any
    }

    fn connect_to_guest(&mut self, guest_port: u32, stream: OwnedFd) {
        let host_port = self.table.host_port(guest_port);
        self.add(Key { host_port, guest_port }, stream, Operation::Request);
    }

    fn connect_to_host(&mut self, header: &Header) {
        let key = Key { host_port: header.dst_port, guest_port: header.src_port };
        let connected = self.hand_over(header.dst_port).and_then(|stream| self.add(key, stream, Operation::Response));
        match connected.and_then(|slot| self.table.get(slot)) {
            Some(connection) => connection.learn(header),
            None => self.replies.push_back(header.reset()),
        }
    }

    /// Makes a pair of streams and gives one to the host; `None` if it cannot be had or is not wanted.
    fn hand_over(&self, port: u32) -> Option<OwnedFd> {
        if self.table.is_full() {
            return None;
        }
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).ok()?;
        channel::send(self.channel.as_ref()?.as_fd(), port, &theirs).ok()?;
        Some(ours)
    }

    fn add(&mut self, key: Key, stream: OwnedFd, opening: Operation) -> Option<Slot> {
        let slot = self.table.insert(key, stream, opening)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP;
        let stream = self.table.get(slot).map(|connection| self.poller.add(connection.stream(), slot.token(), flags));
        if !matches!(stream, Some(Ok(()))) {
            self.table.remove(slot);
            return None;
        }
        self.enqueue(slot);
        Some(slot)
    }

    /// Handles packets from the guest; whether there were any.
    ///
    /// # Errors
    ///
    /// [`QueueError`] if the driver broke the ring.
    pub fn process_transmit(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, QueueError> {
        let indirect = self.features & feature::INDIRECT_DESC != 0;
        let mut any = false;
        for _ in 0..TRANSMIT_BATCH {
            if self.replies.len() >= REPLIES_MAX {
                break;
            }
            let head = match chain::pop(queue, memory, indirect, &mut self.chain)? {
                Popped::Empty => break,
                Popped::Malformed { head, .. } => head,
                Popped::Chain => {
                    if let Some(packet) = Buffers::new(memory, self.chain.readable(), Permissions::Read) {
                        self.on_packet(packet);
                    }
                    self.chain.head()
                }
            };
            queue.add_used(memory, head, 0)?;
            any = true;
        }
        Ok(any)
    }

    fn on_packet(&mut self, mut packet: Buffers<'_>) {
        let mut bytes = [0; HEADER_SIZE];
        if packet.take_into(&mut bytes) != HEADER_SIZE {
            return;
        }
        let header = Header::parse(&bytes);
        if header.src_cid != self.guest_cid || header.dst_cid != u64::from(machine::vsock::HOST_CID) {
            return;
        }
        let operation = Operation::parse(header.op).filter(|_| header.kind == TYPE_STREAM);
        let length = usize::try_from(header.len).unwrap_or(usize::MAX);
        let sound = operation.filter(|_| length <= packet.len() && length <= PAYLOAD_MAX);
        let found = self.table.find(Key { host_port: header.dst_port, guest_port: header.src_port });
        match (found, sound) {
            (Some(slot), Some(operation)) => self.on_known(slot, operation, &header, packet.split_front(length)),
            (Some(slot), None) => self.break_off(slot),
            (None, Some(Operation::Request)) => self.connect_to_host(&header),
            (None, _) if operation == Some(Operation::Reset) => {}
            (None, _) => self.replies.push_back(header.reset()),
        }
    }

    fn on_known(&mut self, slot: Slot, operation: Operation, header: &Header, payload: Buffers<'_>) {
        let Some(connection) = self.table.get(slot) else { return };
        connection.learn(header);
        match (connection.phase, operation) {
            (_, Operation::Reset) => return self.table.retire(slot),
            (Phase::Requested, Operation::Response) if connection.control().is_none() => {
                connection.phase = Phase::Established;
            }
            (Phase::Established, Operation::Data) => {
                if connection.deliver(payload).is_err() {
                    return self.break_off(slot);
                }
            }
            (Phase::Established, Operation::CreditUpdate) => {}
            (Phase::Established, Operation::CreditRequest) => connection.credit_requested(),
            (Phase::Established, Operation::Shutdown) => {
                if connection.shut_down(header.flags & shutdown::BOTH) {
                    self.replies.push_back(header.reset());
                    return self.table.retire(slot);
                }
            }
            _ => return self.break_off(slot),
        }
        self.enqueue(slot);
    }

    /// Ends a connection that went wrong, on both sides.
    fn break_off(&mut self, slot: Slot) {
        let guest_cid = self.guest_cid;
        if let Some(connection) = self.table.get(slot) {
            let reset = connection.header(guest_cid, Operation::Reset, 0, 0);
            self.replies.push_back(Header { buf_alloc: 0, fwd_cnt: 0, ..reset });
        }
        self.table.remove(slot);
    }

    /// A connection, if it is still there.
    pub(super) fn connection(&mut self, slot: Slot) -> Option<&mut Connection> {
        self.table.get(slot)
    }
}

fn notify(
    index: u16,
    used: &Result<bool, QueueError>,
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    interrupt: &dyn Interrupt,
) -> Result<(), QueueError> {
    if !matches!(used, Ok(false)) && queue.needs_notification(memory)? {
        interrupt.queue(index);
    }
    Ok(())
}
