use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{FileOffset, GuestAddress};

use super::*;
use crate::balloon::Balloon;
use crate::testing::{Counter, DATA, MEMORY, Ring, eventually};
use crate::vhost_user::{self, MemoryCell};

/// Guest memory that a daemon can map.
fn shared_memory() -> GuestMemoryMmap {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(MEMORY).unwrap();
    let size = usize::try_from(MEMORY).unwrap();
    GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), size, Some(FileOffset::new(file, 0)))]).unwrap()
}

/// A device before a daemon, which is one of our own devices with two queues: to the frontend they are all alike.
fn before_a_daemon() -> (Fs, thread::JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let daemon =
        thread::spawn(move || vhost_user::serve(Box::new(Balloon::new()), theirs, &MemoryCell::default()).unwrap());
    (Fs::new("files", ours).unwrap(), daemon)
}

fn active(queue: Queue) -> ActiveQueue {
    ActiveQueue { queue, kick: EventFd::new(EFD_NONBLOCK).unwrap() }
}

fn activation(memory: &GuestMemoryMmap, queues: Vec<Queue>, interrupt: &Arc<Counter>) -> (Activation, Vec<EventFd>) {
    let queues: Vec<_> = queues.into_iter().map(active).collect();
    let kicks = queues.iter().map(|active| active.kick.try_clone().unwrap()).collect();
    let interrupt = Arc::clone(interrupt) as _;
    (Activation { memory: memory.clone(), features: feature::RING & !feature::EVENT_IDX, queues, interrupt }, kicks)
}

#[test]
fn the_daemon_has_the_queues_until_they_are_taken_back() {
    let memory = shared_memory();
    let (mut fs, daemon) = before_a_daemon();
    let mut rings = [Ring::new(&memory, 0, 64), Ring::new(&memory, 1, 64)];
    let mut queues: Vec<Queue> = rings.iter().map(Ring::queue).collect();
    let interrupt = Arc::new(Counter::default());
    for round in 1..=3_usize {
        let (activation, kicks) = activation(&memory, queues, &interrupt);
        fs.activate(activation).unwrap();
        for (ring, kick) in rings.iter_mut().zip(&kicks) {
            ring.chain(&[(DATA, 8, false)]);
            kick.write(1).unwrap();
            eventually("the daemon's use of a buffer", || ring.used().len() == 1);
        }
        eventually("two interrupts", || interrupt.queue.load(Ordering::SeqCst) >= 2 * round);
        queues = fs.quiesce();
        let next: Vec<u16> = queues.iter().map(Queue::next_avail).collect();
        assert_eq!(next, [u16::try_from(round).unwrap(); 2]);
    }
    drop(fs);
    daemon.join().unwrap();
}

#[test]
fn a_daemon_that_is_gone_leaves_the_device_idle() {
    let memory = shared_memory();
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let mut fs = Fs::new("files", ours).unwrap();
    let queues = || vec![Ring::new(&memory, 0, 64).queue(), Ring::new(&memory, 1, 64).queue()];
    let (activation, _kicks) = activation(&memory, queues(), &Arc::new(Counter::default()));
    let error = fs.activate(activation).unwrap_err();
    assert!(matches!(error, ActivateError::Host { .. }), "{error:?}");
    assert!(fs.quiesce().is_empty());
}

#[test]
fn memory_that_is_no_file_is_not_handed_over() {
    let memory = crate::testing::memory();
    let (mut fs, daemon) = before_a_daemon();
    let queues = vec![Ring::new(&memory, 0, 64).queue(), Ring::new(&memory, 1, 64).queue()];
    let (activation, _kicks) = activation(&memory, queues, &Arc::new(Counter::default()));
    assert!(matches!(fs.activate(activation), Err(ActivateError::Host { .. })));
    drop(fs);
    daemon.join().unwrap();
}

#[test]
fn the_driver_reads_the_tag_and_one_request_queue() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let fs = Fs::new("files", ours).unwrap();
    let mut config = [9; 44];
    fs.read_config(0, &mut config);
    assert_eq!(config[..6], *b"files\0");
    assert_eq!(config[36..], [1, 0, 0, 0, 0, 0, 0, 0]);
}
