use super::*;
use crate::testing::{DATA, MEMORY, Ring, get, memory, put};

const PAGE: u64 = 4096;

struct Rig {
    ring: Ring,
    queue: Queue,
    engine: Engine,
}

fn rig() -> Rig {
    let ring = Ring::new(&memory(), 0, QUEUE_SIZES[2]);
    let mut engine = Engine::default();
    engine.accept(u64::MAX);
    Rig { queue: ring.queue(), ring, engine }
}

impl Rig {
    fn fill(&self, address: u64, length: u64) {
        put(&self.ring.memory, address, &vec![7; usize::try_from(length).unwrap()]);
    }

    fn is_zero(&self, address: u64, length: u64) -> bool {
        get(&self.ring.memory, address, usize::try_from(length).unwrap()).iter().all(|byte| *byte == 0)
    }

    fn is_kept(&self, address: u64, length: u64) -> bool {
        get(&self.ring.memory, address, usize::try_from(length).unwrap()).iter().all(|byte| *byte == 7)
    }

    fn report(&mut self, parts: &[(u64, u32, bool)]) {
        let head = self.ring.chain(parts);
        assert!(self.engine.process(&self.ring.memory, &mut self.queue).unwrap());
        assert_eq!(self.ring.used(), [(u32::from(head), 0)]);
    }
}

#[test]
fn reported_pages_are_taken_back() {
    let mut rig = rig();
    rig.fill(DATA, 16 * PAGE);
    rig.report(&[(DATA + PAGE, 4096, true), (DATA + 4 * PAGE, 3 * 4096, true)]);
    for (first, count, taken) in [(0, 1, false), (1, 1, true), (2, 2, false), (4, 3, true), (7, 9, false)] {
        let (address, length) = (DATA + first * PAGE, count * PAGE);
        assert!(if taken { rig.is_zero(address, length) } else { rig.is_kept(address, length) }, "page {first}");
    }
}

#[test]
fn only_whole_pages_inside_of_a_report_are_taken() {
    let mut rig = rig();
    rig.fill(DATA, 4 * PAGE);
    rig.report(&[(DATA + 1, 4095, true)]);
    rig.report(&[(DATA + 100, 8191, true)]);
    assert!(rig.is_kept(DATA, PAGE) && rig.is_zero(DATA + PAGE, PAGE) && rig.is_kept(DATA + 2 * PAGE, 2 * PAGE));
}

#[test]
fn what_is_no_report_changes_nothing() {
    let mut rig = rig();
    rig.fill(DATA, 4 * PAGE);
    // Page numbers for the balloon; memory that is not there; nothing.
    rig.report(&[(DATA, 4096, false)]);
    rig.report(&[(MEMORY - PAGE, 8192, true)]);
    rig.report(&[(DATA, 0, true)]);
    rig.engine.accept(!features::PAGE_REPORTING);
    rig.report(&[(DATA, 4096, true)]);
    assert!(rig.is_kept(DATA, 4 * PAGE));
}

#[test]
fn a_guest_may_report_everything_its_rings_included() {
    let mut rig = rig();
    rig.fill(DATA, PAGE);
    rig.ring.chain(&[(0, u32::try_from(MEMORY).unwrap(), true)]);
    // The ring is zeros now: the answer goes to its beginning, and nothing more is found.
    let _ = rig.engine.process(&rig.ring.memory, &mut rig.queue);
    assert!(rig.is_zero(DATA, PAGE));
}
