//! Serves block requests, one after the other.
//!
//! Where reads or writes are limited, requests that must wait are held aside, so that those of the other direction
//! pass. They are held no longer than the limit says, across a pause of the device too, and forgotten when the driver
//! resets it; what they and others before them cost is not.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use machine::{DiskRates, SECTOR_SIZE};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestMemoryMmap, Permissions};

use super::backing::Backing;
use super::features;
use super::request::{
    DATA_MAX, HEADER_SIZE, Header, ID_SIZE, Operation, RANGE_SIZE, RANGES_MAX, Range, Status, bytes_of,
};
use crate::buffers::Buffers;
use crate::chain::{self, Chain, Popped, QueueError};
use crate::device::feature;
use crate::rate::{self, Direction, Limiter};
use crate::worker::{RequestEngine, Stop};

/// Most requests between two looks at whether the driver wants to be told.
const BATCH: usize = 16;

/// A block device without its thread.
#[derive(Debug)]
pub struct Engine {
    backing: Backing,
    id: [u8; ID_SIZE],
    features: u64,
    chain: Chain,
    limiter: Limiter,
    /// Requests that wait for their turn, first come first served in each direction.
    held: [VecDeque<Held>; 2],
    clock: fn() -> u64,
}

/// A request that has been taken off the ring and waits.
#[derive(Debug)]
struct Held {
    chain: Chain,
    /// `None` where there was none.
    header: Option<Header>,
}

impl Engine {
    /// Serves `backing`; `serial` is what `GET_ID` answers, cut to 20 bytes.
    #[must_use]
    pub fn new(backing: Backing, serial: &str) -> Self {
        let mut id = [0; ID_SIZE];
        for (target, byte) in id.iter_mut().zip(serial.bytes()) {
            *target = byte;
        }
        Self {
            backing,
            id,
            features: 0,
            chain: Chain::default(),
            limiter: Limiter::default(),
            held: Default::default(),
            clock: rate::monotonic_ns,
        }
    }

    /// Sets the features that the driver accepted.
    pub fn accept(&mut self, features: u64) {
        self.features = features;
    }

    pub(super) fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Limits how fast it is used from now on.
    pub fn limit(&mut self, rates: DiskRates) {
        self.limiter = Limiter::new(rates);
    }

    /// Another clock: nanoseconds of its own.
    #[cfg(test)]
    pub(super) fn set_clock(&mut self, clock: fn() -> u64) {
        self.clock = clock;
    }

    /// Forgets requests that wait: the driver has.
    pub(super) fn reset(&mut self) {
        self.held.iter_mut().for_each(VecDeque::clear);
    }

    /// Serves some of the available requests of `queue`; whether any was used.
    ///
    /// # Errors
    ///
    /// [`QueueError`] if the driver broke the ring.
    pub fn process(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, QueueError> {
        RequestEngine::process(self, memory, queue, None)
    }

    /// What is not limited needs no clock.
    fn now(&self) -> u64 {
        if self.limiter.is_limited() { (self.clock)() } else { 0 }
    }

    /// The next request that may begin: one that has waited, or one from the ring. `None` where there is none yet.
    fn next(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<Option<Next>, QueueError> {
        let now = self.now();
        for direction in Direction::BOTH {
            let may_begin = self.limiter.ready_at(direction) <= now;
            if may_begin && let Some(held) = self.held[direction as usize].pop_front() {
                return Ok(Some(Next::Request(held)));
            }
        }
        let indirect = self.features & feature::INDIRECT_DESC != 0;
        while self.accepts_more(queue) {
            let header = match chain::pop(queue, memory, indirect, &mut self.chain)? {
                Popped::Empty => return Ok(None),
                Popped::Malformed { head, .. } => return Ok(Some(Next::Malformed(head))),
                Popped::Chain => self.header(memory),
            };
            let request = Held { chain: mem::take(&mut self.chain), header };
            let Some(direction) = direction_of(header) else { return Ok(Some(Next::Request(request))) };
            let held = &mut self.held[direction as usize];
            if held.is_empty() && self.limiter.ready_at(direction) <= now {
                return Ok(Some(Next::Request(request)));
            }
            held.push_back(request);
        }
        Ok(None)
    }

    /// The header of the chain that was just taken. One that is not all there asks for nothing that exists.
    fn header(&self, memory: &GuestMemoryMmap) -> Option<Header> {
        let mut bytes = [0; HEADER_SIZE];
        let mut readable = Buffers::new(memory, self.chain.readable(), Permissions::Read)?;
        (readable.take_into(&mut bytes) == HEADER_SIZE).then(|| Header::parse(bytes))
    }

    /// Serves a request; what goes into the used ring.
    fn serve(&mut self, memory: &GuestMemoryMmap, Held { chain, header }: &Held) -> u32 {
        let readable = Buffers::new(memory, chain.readable(), Permissions::Read);
        let writable = Buffers::new(memory, chain.writable(), Permissions::Write);
        let (Some(mut readable), Some(mut data)) = (readable, writable) else { return 0 };
        let Some(data_length) = data.len().checked_sub(1) else { return 0 };
        let payload = data.split_front(data_length);
        let mut status_byte = data;
        readable.advance(HEADER_SIZE);
        let (status, cost) = match header.ok_or(Status::IoError).and_then(|h| self.execute(h, readable, payload)) {
            Ok(cost) => (Status::Ok, cost),
            Err(status) => (status, 0),
        };
        if let Some(direction) = direction_of(*header) {
            let now = self.now();
            self.limiter.charge(direction, cost, now);
        }
        status_byte.put(&[status as u8]);
        // The status byte lies behind the data: who has written it has written all, as far as the ring can say.
        u32::try_from(data_length + 1).unwrap_or(u32::MAX)
    }

    /// Does what is asked for. Returns how many bytes that counts for.
    fn execute(&self, header: Header, readable: Buffers<'_>, target: Buffers<'_>) -> Result<u64, Status> {
        let Header { operation, sector } = header;
        match operation.ok_or(Status::Unsupported)? {
            Operation::Read => self.read(sector, target),
            Operation::Write => self.write(sector, readable),
            Operation::Flush => self.flush().map(|()| 0),
            Operation::GetId => self.get_id(target).map(|()| 0),
            Operation::Discard => self.ranges(readable, features::DISCARD).map(|_| SECTOR_SIZE),
            Operation::WriteZeroes => self.ranges(readable, features::WRITE_ZEROES),
        }
    }

    fn read(&self, sector: u64, target: Buffers<'_>) -> Result<u64, Status> {
        let length = target.len() as u64;
        let offset = self.data_range(sector, target.len())?;
        self.backing.read(offset, target).map_err(|_| Status::IoError)?;
        Ok(length)
    }

    fn write(&self, sector: u64, source: Buffers<'_>) -> Result<u64, Status> {
        let length = source.len() as u64;
        let offset = self.data_range(sector, source.len())?;
        self.backing.write(offset, source).map_err(|_| Status::IoError)?;
        self.flush_unless_cached()?;
        Ok(length)
    }

    fn data_range(&self, sector: u64, length: usize) -> Result<u64, Status> {
        let length = length as u64;
        if length > DATA_MAX {
            return Err(Status::IoError);
        }
        let (offset, _) = bytes_of(sector, length, self.backing.sectors()).ok_or(Status::IoError)?;
        Ok(offset)
    }

    fn flush(&self) -> Result<(), Status> {
        self.backing.flush().map_err(|_| Status::IoError)
    }

    fn flush_unless_cached(&self) -> Result<(), Status> {
        if self.features & features::FLUSH == 0 { self.flush() } else { Ok(()) }
    }

    fn get_id(&self, mut target: Buffers<'_>) -> Result<(), Status> {
        if target.is_empty() {
            return Err(Status::IoError);
        }
        target.put(&self.id);
        Ok(())
    }

    /// Reads and checks every range before the first one is acted on. Returns their bytes.
    fn ranges(&self, mut source: Buffers<'_>, kind: u64) -> Result<u64, Status> {
        if self.backing.is_read_only() || self.features & kind == 0 {
            return Err(Status::Unsupported);
        }
        let count = source.len() / RANGE_SIZE;
        let limit = usize::try_from(RANGES_MAX).unwrap_or(usize::MAX);
        if !source.len().is_multiple_of(RANGE_SIZE) || count == 0 || count > limit {
            return Err(Status::IoError);
        }
        let zeroes = kind == features::WRITE_ZEROES;
        let mut ranges = Vec::with_capacity(count);
        let mut bytes = [0; RANGE_SIZE];
        while source.take_into(&mut bytes) == RANGE_SIZE {
            ranges.push(Range::parse(bytes, self.backing.sectors(), zeroes)?);
        }
        let bytes = ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.length));
        for range in ranges {
            if zeroes {
                self.backing.write_zeroes(range.offset, range.length, range.unmap)
            } else {
                self.backing.discard(range.offset, range.length)
            }
            .map_err(|_| Status::IoError)?;
        }
        self.flush_unless_cached()?;
        Ok(bytes)
    }
}

/// A request that is to be answered now.
enum Next {
    Request(Held),
    /// A chain with this head that is none.
    Malformed(u16),
}

/// What a request counts as; nothing for those that are free. A flush is a write of no bytes.
fn direction_of(header: Option<Header>) -> Option<Direction> {
    match header?.operation? {
        Operation::Read => Some(Direction::Read),
        Operation::Write | Operation::Flush | Operation::Discard | Operation::WriteZeroes => Some(Direction::Write),
        Operation::GetId => None,
    }
}

impl RequestEngine for Engine {
    fn process(
        &mut self,
        memory: &GuestMemoryMmap,
        queue: &mut Queue,
        stop: Option<&Stop>,
    ) -> Result<bool, QueueError> {
        for done in 0..BATCH {
            if stop.is_some_and(Stop::requested) {
                return Ok(done > 0);
            }
            let (head, used) = match self.next(memory, queue)? {
                None => return Ok(done > 0),
                Some(Next::Malformed(head)) => (head, 0),
                Some(Next::Request(request)) => {
                    let used = self.serve(memory, &request);
                    let head = request.chain.head();
                    // Its allocation serves the next one.
                    self.chain = request.chain;
                    (head, used)
                }
            };
            queue.add_used(memory, head, used)?;
        }
        Ok(true)
    }

    /// A driver has no more requests on their way than its ring has entries: one that offers more waits.
    fn accepts_more(&self, queue: &Queue) -> bool {
        self.held.iter().map(VecDeque::len).sum::<usize>() < usize::from(queue.size())
    }

    fn patience(&self) -> Option<Duration> {
        let waiting = Direction::BOTH.into_iter().filter(|direction| !self.held[*direction as usize].is_empty());
        let at = waiting.map(|direction| self.limiter.ready_at(direction)).min()?;
        Some(Duration::from_nanos(at.saturating_sub(self.now())))
    }
}
