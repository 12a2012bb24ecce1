//! The conversation while a machine runs.

use std::os::fd::AsFd;

use machine::{End, EndReason, FromMachine, ToMachine};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::monotonic_ns;
use crate::verdict::Verdict;
use crate::wire::{Channel, Received, name};

/// Answers the monitor until the machine ends, or ends it because the monitor says so, goes away or makes no sense.
#[must_use]
pub fn converse(channel: &Channel, verdict: &Verdict, kernel_log: &dyn Fn() -> Vec<u8>) -> EndReason {
    loop {
        if let Some(reason) = verdict.get() {
            return reason;
        }
        let mut descriptors =
            [PollFd::from_borrowed_fd(verdict.as_fd(), PollFlags::IN), PollFd::new(channel, PollFlags::IN)];
        match poll(&mut descriptors, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return EndReason::Internal(format!("cannot wait for the monitor: {error}")),
        }
        if descriptors[1].revents().is_empty() || !descriptors[0].revents().is_empty() {
            continue;
        }
        match channel.receive() {
            Ok(Received::Closed | Received::Message(ToMachine::Stop, _)) => return EndReason::Stopped,
            Ok(Received::Message(ToMachine::KernelLog, _)) => {
                // A monitor that does not read its answer goes without.
                let _ = channel.send(&FromMachine::KernelLog(kernel_log()));
            }
            Ok(Received::Message(message, _)) => {
                return EndReason::Internal(format!("the monitor sent {} to a running machine", name(&message)));
            }
            Err(error) => return EndReason::Internal(crate::chain(&error)),
        }
    }
}

/// Says the last word.
pub fn say_ended(channel: &Channel, reason: EndReason, kernel_log: Vec<u8>) {
    // If nobody listens, nobody needs to know.
    let _ = channel.send(&FromMachine::Ended(End { reason, at: monotonic_ns(), kernel_log }));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::wire::tests::{pair, send};

    #[test]
    fn the_monitor_asks_and_stops() {
        let (monitor, channel) = pair();
        send(&monitor, &ToMachine::KernelLog, &[]);
        send(&monitor, &ToMachine::Stop, &[]);
        let reason = converse(&channel, &Verdict::new().unwrap(), &|| b"log".to_vec());
        assert_eq!(reason, EndReason::Stopped);
        let mut bytes = [0; 64];
        let (count, _) = rustix::net::recv(&monitor, &mut bytes, rustix::net::RecvFlags::empty()).unwrap();
        assert_eq!(machine::decode::<FromMachine>(&bytes[..count]).unwrap(), FromMachine::KernelLog(b"log".to_vec()));
    }

    #[test]
    fn a_monitor_that_goes_away_stops_the_machine() {
        let (monitor, channel) = pair();
        drop(monitor);
        assert_eq!(converse(&channel, &Verdict::new().unwrap(), &Vec::new), EndReason::Stopped);
    }

    #[test]
    fn the_guest_ends_it_from_another_thread() {
        let (_monitor, channel) = pair();
        let verdict = Arc::new(Verdict::new().unwrap());
        let vcpu = thread::spawn({
            let verdict = Arc::clone(&verdict);
            move || verdict.reach(EndReason::TripleFault)
        });
        assert_eq!(converse(&channel, &verdict, &Vec::new), EndReason::TripleFault);
        vcpu.join().unwrap();
    }

    #[test]
    fn nonsense_ends_the_machine_with_what_it_was() {
        let (monitor, channel) = pair();
        send(&monitor, &ToMachine::Files { count: 0 }, &[]);
        let EndReason::Internal(text) = converse(&channel, &Verdict::new().unwrap(), &Vec::new) else { panic!() };
        assert_eq!(text, "the monitor sent Files to a running machine");
    }
}
