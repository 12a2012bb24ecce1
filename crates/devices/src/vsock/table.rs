//! The connections of a device: found by ports when the guest speaks, by slot when the host does.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use super::connection::{Connection, Key, Phase};
use super::packet::Operation;

/// Most connections at a time, orphans included.
pub const CONNECTIONS_MAX: usize = 1024;

/// What a connection may have buffered for the host; the first [`LARGE_MAX`] connections have more. All together
/// stay below 32 MiB.
const LARGE_BUFFER: u32 = 256 << 10;
const LARGE_MAX: usize = 64;
const SMALL_BUFFER: u32 = 16 << 10;

/// First port that connections from the host come from.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// Where a connection is. The generation tells it from those that had the place before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    index: u32,
    generation: u32,
}

impl Slot {
    /// As an event token. Tokens that are no slots have an index beyond [`CONNECTIONS_MAX`].
    pub(super) fn token(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn from_token(token: u64) -> Self {
        let [i0, i1, i2, i3, g0, g1, g2, g3] = token.to_le_bytes();
        Self { index: u32::from_le_bytes([i0, i1, i2, i3]), generation: u32::from_le_bytes([g0, g1, g2, g3]) }
    }
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    connection: Option<Connection>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
    by_key: HashMap<Key, Slot>,
    large: usize,
    next_host_port: u32,
}

impl Table {
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty() && self.places.len() >= CONNECTIONS_MAX
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn find(&self, key: Key) -> Option<Slot> {
        self.by_key.get(&key).copied()
    }

    pub(super) fn get(&mut self, slot: Slot) -> Option<&mut Connection> {
        let place = self.places.get_mut(usize::try_from(slot.index).ok()?)?;
        if place.generation == slot.generation { place.connection.as_mut() } else { None }
    }

    /// A port of the host from which no connection goes to `guest_port`.
    pub(super) fn host_port(&mut self, guest_port: u32) -> u32 {
        loop {
            let host_port = FIRST_HOST_PORT + self.next_host_port;
            self.next_host_port = (self.next_host_port + 1) % FIRST_HOST_PORT;
            // Ends: there are more ports than connections.
            if !self.by_key.contains_key(&Key { host_port, guest_port }) {
                return host_port;
            }
        }
    }

    /// Adds a connection; `None` (and the stream is closed) if the table is full.
    pub(super) fn insert(&mut self, key: Key, stream: OwnedFd, opening: Operation) -> Option<Slot> {
        if self.is_full() {
            return None;
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.places.push(Place::default());
                u32::try_from(self.places.len() - 1).ok()?
            }
        };
        let buf_alloc = if self.large < LARGE_MAX { LARGE_BUFFER } else { SMALL_BUFFER };
        self.large += usize::from(buf_alloc == LARGE_BUFFER);
        let place = self.places.get_mut(usize::try_from(index).ok()?)?;
        place.generation = place.generation.wrapping_add(1);
        place.connection = Some(Connection::new(key, stream, buf_alloc, opening));
        let slot = Slot { index, generation: place.generation };
        self.by_key.insert(key, slot);
        Some(slot)
    }

    /// Drops a connection, which closes its stream.
    pub(super) fn remove(&mut self, slot: Slot) {
        let Some(key) = self.get(slot).map(|connection| connection.key) else { return };
        if self.by_key.get(&key) == Some(&slot) {
            self.by_key.remove(&key);
        }
        let Some(place) = usize::try_from(slot.index).ok().and_then(|index| self.places.get_mut(index)) else { return };
        if let Some(connection) = place.connection.take() {
            self.large -= usize::from(connection.buf_alloc == LARGE_BUFFER);
            self.free.push(slot.index);
        }
    }

    /// The guest is done with a connection: its ports are free at once, its backlog stays until the host has it.
    pub(super) fn retire(&mut self, slot: Slot) {
        let Some(connection) = self.get(slot) else { return };
        if connection.is_drained() {
            return self.remove(slot);
        }
        connection.phase = Phase::Orphan;
        let key = connection.key;
        self.by_key.remove(&key);
    }

    /// Every connection there is.
    pub(super) fn slots(&self) -> Vec<Slot> {
        let slot = |(index, place): (usize, &Place)| {
            place.connection.as_ref()?;
            Some(Slot { index: u32::try_from(index).ok()?, generation: place.generation })
        };
        self.places.iter().enumerate().filter_map(slot).collect()
    }
}
