//! A limited device, by a clock that the test turns and by the real one.

use std::cell::Cell;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::*;

thread_local!(static NOW: Cell<u64> = const { Cell::new(1_000_000_000_000) });

fn pass(milliseconds: u64) {
    NOW.with(|now| now.set(now.get() + milliseconds * 1_000_000));
}

fn rate(bytes: u64, operations: u64) -> Rate {
    Rate { bytes: NonZeroU64::new(bytes), operations: NonZeroU64::new(operations) }
}

fn limited(read: Rate, write: Rate) -> Rig {
    let mut rig = Rig::writable();
    rig.engine.limit(DiskRates { read, write });
    rig.engine.set_clock(|| NOW.with(Cell::get));
    rig
}

impl Rig {
    /// Offers a request of a sector; its head.
    fn offer(&mut self, slot: u64, kind: u32) -> u32 {
        let at = DATA + 0x10_0000 + slot * 0x1000;
        put(&self.ring.memory, at, &header(kind, slot));
        let parts = [(at, 16, false), (at + 0x200, 512, kind == IN), (at + 0x100, 1, true)];
        u32::from(self.ring.chain(&parts))
    }

    /// Heads of the requests that are served now.
    fn served(&mut self) -> Vec<u32> {
        while self.engine.process(&self.ring.memory, &mut self.queue).unwrap() {}
        self.ring.used().into_iter().map(|(head, _)| head).collect()
    }

    fn patience(&self) -> Option<Duration> {
        RequestEngine::patience(&self.engine)
    }
}

#[test]
fn requests_wait_for_their_turn_and_say_how_long() {
    let mut rig = limited(Rate::default(), rate(0, 10));
    let heads: Vec<u32> = (0..4).map(|slot| rig.offer(slot, OUT)).collect();
    // A burst of a tenth of a second is one operation, and one on debt.
    assert_eq!(rig.served(), heads[..2]);
    assert_eq!(rig.patience(), Some(Duration::from_millis(100)));
    assert!(rig.served().is_empty());
    pass(99);
    assert!(rig.served().is_empty());
    pass(1);
    assert_eq!(rig.served(), heads[2..3]);
    pass(1000);
    assert_eq!(rig.served(), heads[3..]);
    assert_eq!(rig.patience(), None);
}

#[test]
fn reads_pass_writes_that_wait() {
    let mut rig = limited(rate(0, 1000), rate(512, 0));
    let writes: Vec<u32> = (0..4).map(|slot| rig.offer(slot, OUT)).collect();
    let read = rig.offer(9, IN);
    let flush = rig.offer(10, FLUSH);
    let id = rig.offer(11, GET_ID);
    assert_eq!(rig.served(), [writes[0], read, id], "a write of a second's bytes, and what is not a write");
    pass(2000);
    assert_eq!(rig.served(), writes[1..2]);
    pass(10_000);
    // First come, first served.
    assert_eq!(rig.served(), writes[2..3]);
    pass(10_000);
    assert_eq!(rig.served(), writes[3..]);
    pass(10_000);
    assert_eq!(rig.served(), [flush]);
}

#[test]
fn a_ring_that_offers_more_than_it_has_is_not_listened_to() {
    let mut rig = limited(Rate::default(), rate(1, 0));
    for round in 0..5 {
        for slot in 0..40 {
            rig.offer(slot, OUT);
        }
        let used = rig.served().len();
        assert_eq!(used, usize::from(round == 0));
        if round == 4 {
            break;
        }
    }
    assert!(!RequestEngine::accepts_more(&rig.engine, &rig.queue));
    assert!(rig.patience().unwrap() > Duration::from_secs(500));
}

#[test]
fn a_debt_outlives_a_reset_and_what_waited_does_not() {
    let mut rig = limited(Rate::default(), rate(512, 0));
    let first = rig.offer(0, OUT);
    rig.offer(1, OUT);
    assert_eq!(rig.served(), [first]);
    rig.engine.reset();
    assert_eq!(rig.patience(), None);
    rig.ring = Ring::new(&rig.ring.memory, 1, QUEUE_SIZE);
    rig.queue = rig.ring.queue();
    let after = rig.offer(2, OUT);
    assert!(rig.served().is_empty());
    pass(1000);
    assert_eq!(rig.served(), [after]);
}

#[test]
fn what_waits_is_kept_over_a_pause() {
    let mut rig = limited(Rate::default(), rate(512, 0));
    let heads: Vec<u32> = (0..3).map(|slot| rig.offer(slot, OUT)).collect();
    assert_eq!(rig.served(), heads[..1]);
    let state = rig.queue.state();
    rig.queue = Queue::try_from(state).unwrap();
    pass(1000);
    assert_eq!(rig.served(), heads[1..2]);
}

#[test]
fn refused_and_failed_requests_count_as_operations_alone() {
    let mut rig = limited(rate(512, 1000), Rate::default());
    let far = u64::MAX / 1024;
    put(&rig.ring.memory, HEADER, &header(IN, far));
    for _ in 0..4 {
        rig.ring.chain(&[(HEADER, 16, false), (BODY, 512, true), (STATUS, 1, true)]);
    }
    assert_eq!(rig.served().len(), 4);
}

#[test]
fn a_limited_device_keeps_to_the_real_clock_and_sleeps_meanwhile() {
    let memory = memory();
    let mut ring = Ring::new(&memory, 0, QUEUE_SIZE);
    let (counter, kick) = (Arc::new(Counter::default()), EventFd::new(EFD_NONBLOCK).unwrap());
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    let mut engine = Engine::new(Backing::writable(Arc::new(disk())).unwrap(), "x");
    engine.limit(DiskRates { read: rate(0, 50), write: Rate::default() });
    engine.set_clock(|| {
        LOOKS.fetch_add(1, Ordering::SeqCst);
        crate::rate::monotonic_ns()
    });
    let mut device = Block::with_engine(engine);
    put(&memory, HEADER, &header(IN, 0));
    device.activate(active(&ring, &counter, &kick)).unwrap();
    let begun = Instant::now();
    for _ in 0..30 {
        ring.chain(&[(HEADER, 16, false), (BODY, 512, true), (STATUS, 1, true)]);
    }
    kick.write(1).unwrap();
    let mut used = 0;
    while used < 30 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
        used += ring.used().len();
    }
    // 30 at 50 a second, of which a burst of 5 and one more come at once.
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(450) && took < Duration::from_millis(2500), "{took:?}");
    drop(device);
    assert!(LOOKS.load(Ordering::SeqCst) < 30 * 20, "the worker looks at the clock again and again");
}
