//! Serves block requests, one after the other.

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
}

impl Engine {
    /// Serves `backing`; `serial` is what `GET_ID` answers, cut to 20 bytes.
    #[must_use]
    pub fn new(backing: Backing, serial: &str) -> Self {
        let mut id = [0; ID_SIZE];
        for (target, byte) in id.iter_mut().zip(serial.bytes()) {
            *target = byte;
        }
        Self { backing, id, features: 0, chain: Chain::default() }
    }

    /// Sets the features that the driver accepted.
    pub fn accept(&mut self, features: u64) {
        self.features = features;
    }

    /// Serves some of the available requests of `queue`; whether any was used.
    ///
    /// # Errors
    ///
    /// [`QueueError`] if the driver broke the ring.
    pub fn process(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, QueueError> {
        RequestEngine::process(self, memory, queue, None)
    }

    fn serve(&self, memory: &GuestMemoryMmap) -> u32 {
        let readable = Buffers::new(memory, self.chain.readable(), Permissions::Read);
        let writable = Buffers::new(memory, self.chain.writable(), Permissions::Write);
        let (Some(readable), Some(mut data)) = (readable, writable) else { return 0 };
        let Some(data_length) = data.len().checked_sub(1) else { return 0 };
        let payload = data.split_front(data_length);
        let mut status_byte = data;
        let status = match self.execute(readable, payload) {
            Ok(()) => Status::Ok,
            Err(status) => status,
        };
        status_byte.put(&[status as u8]);
        // The status byte lies behind the data: who has written it has written all, as far as the ring can say.
        u32::try_from(data_length + 1).unwrap_or(u32::MAX)
    }

    fn execute(&self, mut readable: Buffers<'_>, target: Buffers<'_>) -> Result<(), Status> {
        let mut header = [0; HEADER_SIZE];
        if readable.take_into(&mut header) != HEADER_SIZE {
            return Err(Status::IoError);
        }
        let Header { operation, sector } = Header::parse(header);
        match operation.ok_or(Status::Unsupported)? {
            Operation::Read => self.read(sector, target),
            Operation::Write => self.write(sector, readable),
            Operation::Flush => self.flush(),
            Operation::GetId => self.get_id(target),
            Operation::Discard => self.ranges(readable, features::DISCARD),
            Operation::WriteZeroes => self.ranges(readable, features::WRITE_ZEROES),
        }
    }

    fn read(&self, sector: u64, target: Buffers<'_>) -> Result<(), Status> {
        let offset = self.data_range(sector, target.len())?;
        self.backing.read(offset, target).map_err(|_| Status::IoError)
    }

    fn write(&self, sector: u64, source: Buffers<'_>) -> Result<(), Status> {
        let offset = self.data_range(sector, source.len())?;
        self.backing.write(offset, source).map_err(|_| Status::IoError)?;
        self.flush_unless_cached()
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

    /// Reads and checks every range before the first one is acted on.
    fn ranges(&self, mut source: Buffers<'_>, kind: u64) -> Result<(), Status> {
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
        for range in ranges {
            if zeroes {
                self.backing.write_zeroes(range.offset, range.length, range.unmap)
            } else {
                self.backing.discard(range.offset, range.length)
            }
            .map_err(|_| Status::IoError)?;
        }
        self.flush_unless_cached()
    }
}

impl RequestEngine for Engine {
    fn process(
        &mut self,
        memory: &GuestMemoryMmap,
        queue: &mut Queue,
        stop: Option<&Stop>,
    ) -> Result<bool, QueueError> {
        let indirect = self.features & feature::INDIRECT_DESC != 0;
        for done in 0..BATCH {
            if stop.is_some_and(Stop::requested) {
                return Ok(done > 0);
            }
            let (head, used) = match chain::pop(queue, memory, indirect, &mut self.chain)? {
                Popped::Empty => return Ok(done > 0),
                Popped::Malformed { head, .. } => (head, 0),
                Popped::Chain => (self.chain.head(), self.serve(memory)),
            };
            queue.add_used(memory, head, used)?;
        }
        Ok(true)
    }
}
