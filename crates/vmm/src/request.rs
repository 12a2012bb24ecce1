//! What this process is to be: the messages up to and including the monitor's order.

use std::fs::File;
use std::sync::Arc;

use machine::{FileIndex, MachineSpec, ToMachine};

use crate::wire::{Channel, Received, WireError, name};

/// An order with the files that it names by index.
#[derive(Debug)]
pub struct Request {
    /// What to be.
    pub order: Order,
    /// Descriptors in the order sent; index 0 is the first.
    pub files: Vec<Arc<File>>,
}

/// What to be.
#[derive(Debug)]
pub enum Order {
    /// A machine.
    Launch(MachineSpec<FileIndex>),
    /// A machine's devices, with a socket for each.
    Serve(MachineSpec<FileIndex>, Vec<FileIndex>),
}

/// Receives files until the order comes.
///
/// # Errors
///
/// [`WireError`] if the conversation does not begin as it should.
pub fn receive(channel: &Channel) -> Result<Request, WireError> {
    let mut files = Vec::new();
    loop {
        let Received::Message(message, arrived) = channel.receive()? else { return Err(WireError::Closed) };
        let announced = if let ToMachine::Files { count } = message { count } else { 0 };
        if usize::try_from(announced) != Ok(arrived.len()) {
            return Err(WireError::DescriptorCount { announced, arrived: arrived.len() });
        }
        let order = match message {
            ToMachine::Files { .. } => {
                files.extend(arrived.into_iter().map(|descriptor| Arc::new(File::from(descriptor))));
                continue;
            }
            ToMachine::Launch { spec } => Order::Launch(spec),
            ToMachine::Serve { spec, sockets } => Order::Serve(spec, sockets),
            ToMachine::KernelLog | ToMachine::Stop => return Err(WireError::OutOfOrder(name(&message))),
        };
        return Ok(Request { order, files });
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::wire::tests::{pair, send};

    #[test]
    fn files_are_numbered_in_the_order_sent() {
        let (monitor, channel) = pair();
        let files: Vec<_> = (0..3).map(|_| tempfile::tempfile().unwrap()).collect();
        files[2].set_len(222).unwrap();
        send(&monitor, &ToMachine::Files { count: 2 }, &[files[0].as_fd(), files[1].as_fd()]);
        send(&monitor, &ToMachine::Files { count: 1 }, &[files[2].as_fd()]);
        let spec = crate::spec_check::tests::spec();
        send(&monitor, &ToMachine::Launch { spec: spec.clone() }, &[]);
        let request = receive(&channel).unwrap();
        assert_eq!(request.files.len(), 3);
        assert_eq!(request.files[2].metadata().unwrap().len(), 222);
        assert!(matches!(request.order, Order::Launch(sent) if sent == spec));
    }

    #[test]
    fn a_conversation_that_begins_wrong_is_refused() {
        let (monitor, channel) = pair();
        let file = tempfile::tempfile().unwrap();
        send(&monitor, &ToMachine::Files { count: 2 }, &[file.as_fd()]);
        assert!(matches!(receive(&channel), Err(WireError::DescriptorCount { announced: 2, arrived: 1 })));
        send(&monitor, &ToMachine::Stop, &[]);
        assert!(matches!(receive(&channel), Err(WireError::OutOfOrder("Stop"))));
        send(&monitor, &ToMachine::Stop, &[file.as_fd()]);
        assert!(matches!(receive(&channel), Err(WireError::DescriptorCount { announced: 0, arrived: 1 })));
        drop(monitor);
        assert!(matches!(receive(&channel), Err(WireError::Closed)));
    }
}
