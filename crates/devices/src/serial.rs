//! The 16550 UART at COM1, for debugging: an exit per byte, so machines have it silent unless a console is wanted.

use std::fs::File;
use std::io::{self, Write};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial as Uart, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// Most bytes that reach the file; a guest that prints on is not listened to.
pub const LIMIT: u64 = 16 << 20;

/// A serial port that writes to a file.
#[derive(Debug)]
pub struct Serial(Uart<Line, NoEvents, Limited>);

impl Serial {
    /// Bytes go to `out`, or nowhere; `interrupt` is raised if the driver enables interrupts.
    #[must_use]
    pub fn new(out: Option<File>, interrupt: Option<EventFd>) -> Self {
        Self(Uart::new(Line(interrupt), Limited { out, left: LIMIT }))
    }

    /// The driver reads the register at `offset` from the port's base.
    pub fn read(&mut self, offset: u8) -> u8 {
        self.0.read(offset)
    }

    /// The driver writes the register at `offset` from the port's base.
    pub fn write(&mut self, offset: u8, value: u8) {
        // A console that cannot be written to is no reason to stop a machine.
        let _ = self.0.write(offset, value);
    }
}

#[derive(Debug)]
struct Line(Option<EventFd>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |event| event.write(1))
    }
}

#[derive(Debug)]
struct Limited {
    out: Option<File>,
    left: u64,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(out) = &mut self.out
            && let Some(left) = self.left.checked_sub(bytes.len() as u64)
        {
            self.left = left;
            out.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn bytes_reach_the_file_up_to_the_limit() {
        let mut file = tempfile::tempfile().unwrap();
        let mut serial = Serial::new(Some(file.try_clone().unwrap()), None);
        serial.0.writer_mut().left = 5;
        b"hello, world".iter().for_each(|byte| serial.write(0, *byte));
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn every_register_takes_every_value() {
        let mut serial = Serial::new(None, None);
        for value in 0..=u8::MAX {
            for offset in 0..=u8::MAX {
                serial.write(offset, value);
                serial.read(offset);
            }
        }
        assert_eq!(serial.read(5) & 0x20, 0x20, "transmitter is always empty");
    }
}
