//! Where a vCPU's accesses go when they leave the guest: register pages by address, ports by number.
//!
//! Unknown addresses and ports behave as on a PC where nothing answers: reads give ones, writes vanish.

use std::sync::{Mutex, PoisonError};

use devices::mmio::{MmioTransport, REGION_SIZE};
use devices::serial::Serial;

use crate::layout::DEVICES;

/// First port of the first serial line.
const COM1: u16 = 0x3f8;
const COM1_END: u16 = COM1 + 8;
/// Keyboard controller: data, and command or status.
const I8042_DATA: u16 = 0x60;
const I8042_COMMAND: u16 = 0x64;
/// The command that pulses the processor's reset line.
const I8042_RESET: u8 = 0xfe;

/// What a write asks of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Go on.
    Continue,
    /// The guest reset itself.
    Reset,
}

/// The devices behind addresses and ports.
#[derive(Default)]
pub struct Bus {
    transports: Vec<Mutex<MmioTransport>>,
    serial: Option<Mutex<Serial>>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus")
            .field("transports", &self.transports.len())
            .field("serial", &self.serial.is_some())
            .finish()
    }
}

impl Bus {
    /// A bus with `transports` page by page from [`DEVICES`] on, and the serial line if there is one.
    #[must_use]
    pub fn new(transports: Vec<MmioTransport>, serial: Option<Serial>) -> Self {
        Self { transports: transports.into_iter().map(Mutex::new).collect(), serial: serial.map(Mutex::new) }
    }

    /// Reads from a guest physical address that is not memory.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.transport(address) {
            Some((transport, offset)) => {
                transport.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
            }
            None => data.fill(0xff),
        }
    }

    /// Writes to a guest physical address that is not memory.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((transport, offset)) = self.transport(address) {
            transport.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        }
    }

    /// Reads from a port; `data` may hold several accesses of a string instruction.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        match (port, &self.serial) {
            (COM1..COM1_END, Some(serial)) => {
                let mut serial = serial.lock().unwrap_or_else(PoisonError::into_inner);
                let register = register(port);
                data.fill_with(|| serial.read(register));
            }
            // An empty keyboard controller that is ready for commands.
            (I8042_DATA | I8042_COMMAND, _) => data.fill(0),
            _ => data.fill(0xff),
        }
    }

    /// Writes to a port; `data` may hold several accesses of a string instruction.
    pub fn port_write(&self, port: u16, data: &[u8]) -> Outcome {
        match (port, &self.serial) {
            (COM1..COM1_END, Some(serial)) => {
                let mut serial = serial.lock().unwrap_or_else(PoisonError::into_inner);
                for value in data {
                    serial.write(register(port), *value);
                }
                Outcome::Continue
            }
            (I8042_COMMAND, _) if data.first() == Some(&I8042_RESET) => Outcome::Reset,
            _ => Outcome::Continue,
        }
    }

    /// Stops every device; requests in flight are finished first.
    pub fn quiesce(&self) {
        for transport in &self.transports {
            transport.lock().unwrap_or_else(PoisonError::into_inner).quiesce();
        }
    }

    fn transport(&self, address: u64) -> Option<(&Mutex<MmioTransport>, u64)> {
        let offset = address.checked_sub(DEVICES)?;
        let index = usize::try_from(offset / REGION_SIZE).ok()?;
        Some((self.transports.get(index)?, offset % REGION_SIZE))
    }
}

fn register(port: u16) -> u8 {
    // The caller matched COM1..COM1_END.
    (port - COM1).to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use devices::rng::Rng;
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    use super::*;

    fn transport() -> MmioTransport {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        MmioTransport::new(memory, Box::new(Rng::new())).unwrap()
    }

    #[test]
    fn pages_belong_to_devices_in_order() {
        let bus = Bus::new(vec![transport(), transport()], None);
        for page in 0..2 {
            let mut magic = [0; 4];
            bus.read(DEVICES + page * REGION_SIZE, &mut magic);
            assert_eq!(&magic, b"virt");
        }
    }

    #[test]
    fn nothing_answers_elsewhere() {
        let bus = Bus::new(vec![transport()], None);
        for address in [0, DEVICES - 1, DEVICES + REGION_SIZE, u64::MAX] {
            let mut data = [0; 8];
            bus.read(address, &mut data);
            assert_eq!(data, [0xff; 8]);
            bus.write(address, &data);
        }
        for port in [0, 0x40, 0x61, 0x70, 0x3f8, 0xcf8, u16::MAX] {
            let mut data = [0; 4];
            bus.port_read(port, &mut data);
            assert_eq!(data, [0xff; 4]);
            assert_eq!(bus.port_write(port, &[0xfe]), Outcome::Continue);
        }
    }

    #[test]
    fn the_keyboard_controller_resets() {
        let bus = Bus::default();
        let mut status = [0xff];
        bus.port_read(0x64, &mut status);
        assert_eq!(status, [0], "ready for a command");
        assert_eq!(bus.port_write(0x64, &[0xd1]), Outcome::Continue);
        assert_eq!(bus.port_write(0x60, &[0xfe]), Outcome::Continue);
        assert_eq!(bus.port_write(0x64, &[]), Outcome::Continue);
        assert_eq!(bus.port_write(0x64, &[0xfe]), Outcome::Reset);
    }

    #[test]
    fn the_console_takes_string_output() {
        let mut file = tempfile::tempfile().unwrap();
        let bus = Bus::new(Vec::new(), Some(Serial::new(Some(file.try_clone().unwrap()), None)));
        assert_eq!(bus.port_write(COM1, b"hello\n"), Outcome::Continue);
        drop(bus);
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
    }
}
