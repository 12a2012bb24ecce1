use proptest::prelude::*;

use super::*;
use crate::testing::{DATA, INDIRECT, MEMORY, NEXT, Ring, WRITE, descriptor, memory, put};

const SIZE: u16 = 8;
const TABLE: u64 = DATA + 0x1000;

fn popped(ring: &Ring) -> Popped {
    let mut chain = Chain::default();
    pop(&mut ring.queue(), &ring.memory, true, &mut chain).unwrap()
}

/// A ring whose descriptor table starts with `descriptors`, of which the first is available.
fn ring(descriptors: &[[u8; 16]]) -> Ring {
    let mut ring = Ring::new(&memory(), 0, SIZE);
    for (index, descriptor) in descriptors.iter().enumerate() {
        ring.set(u16::try_from(index).unwrap(), *descriptor);
    }
    ring.offer(0);
    ring
}

/// The same with the descriptors in an indirect table of `length` bytes.
fn indirect(length: u32, descriptors: &[[u8; 16]]) -> Ring {
    let ring = ring(&[descriptor(TABLE, length, INDIRECT, 0)]);
    put(&ring.memory, TABLE, &descriptors.concat());
    ring
}

#[test]
fn malformed_chains_are_told_apart() {
    use ChainError::{Address, Indirect, Length, Next, Order, TooLong};
    let good = descriptor(DATA, 16, 0, 0);
    let cases: Vec<(&str, Ring, ChainError)> = vec![
        ("a loop of one", ring(&[descriptor(DATA, 16, NEXT, 0)]), TooLong),
        ("a loop of two", ring(&[descriptor(DATA, 1, NEXT, 1), descriptor(DATA, 1, NEXT, 0)]), TooLong),
        ("a loop of nothing", ring(&[descriptor(DATA, 0, NEXT, 0)]), TooLong),
        ("next out of bounds", ring(&[descriptor(DATA, 16, NEXT, SIZE)]), Next),
        ("next at the end of numbers", ring(&[descriptor(DATA, 16, NEXT, u16::MAX)]), Next),
        ("beyond memory", ring(&[descriptor(MEMORY, 1, 0, 0)]), Address),
        ("across the end of memory", ring(&[descriptor(MEMORY - 1, 2, 0, 0)]), Address),
        ("address overflow", ring(&[descriptor(u64::MAX, 2, 0, 0)]), Address),
        ("address overflow to zero", ring(&[descriptor(u64::MAX - 15, 16, 0, 0)]), Address),
        ("huge length", ring(&[descriptor(DATA, u32::MAX, 0, 0)]), Address),
        ("readable behind writable", ring(&[descriptor(DATA, 1, WRITE | NEXT, 1), good]), Order),
        (
            "empty readable behind writable",
            ring(&[descriptor(DATA, 1, WRITE | NEXT, 1), descriptor(DATA, 0, 0, 0)]),
            Order,
        ),
        ("indirect with next", ring(&[descriptor(TABLE, 16, INDIRECT | NEXT, 1), good]), Indirect),
        ("indirect of nothing", indirect(0, &[good]), Indirect),
        ("indirect of a part", indirect(15, &[good]), Indirect),
        ("indirect of one and a part", indirect(17, &[good]), Indirect),
        ("nested indirect", indirect(16, &[descriptor(TABLE, 16, INDIRECT, 0)]), Indirect),
        ("indirect to itself", indirect(16, &[descriptor(TABLE, 16, INDIRECT | NEXT, 0)]), Indirect),
        ("indirect table beyond memory", ring(&[descriptor(MEMORY, 16, INDIRECT, 0)]), Address),
        ("indirect table overflow", ring(&[descriptor(u64::MAX - 7, 16, INDIRECT, 0)]), Address),
        ("indirect table across the end", ring(&[descriptor(MEMORY - 8, 16, INDIRECT, 0)]), Address),
        ("indirect table of 65536", indirect(65536 * 16, &[good]), TooLong),
        ("indirect table of 4 GiB", ring(&[descriptor(TABLE, u32::MAX - 15, INDIRECT, 0)]), TooLong),
        ("indirect loop", indirect(32, &[descriptor(DATA, 1, NEXT, 1), descriptor(DATA, 1, NEXT, 0)]), TooLong),
        ("indirect next out of bounds", indirect(16, &[descriptor(DATA, 1, NEXT, 1)]), Next),
        ("indirect to the descriptor table", ring(&[descriptor(0x10000, 16, INDIRECT, 0)]), Indirect),
    ];
    for (what, ring, error) in cases {
        assert_eq!(popped(&ring), Popped::Malformed { head: 0, error }, "{what}");
    }
    // Together 4 GiB: guest memory is smaller, but the same bytes may be named often.
    let big = u32::try_from(MEMORY).unwrap();
    let count = 257u16;
    let table: Vec<_> =
        (1..=count).map(|next| descriptor(0, big, if next == count { 0 } else { NEXT }, next)).collect();
    let ring = indirect(u32::from(count) * 16, &table);
    assert_eq!(popped(&ring), Popped::Malformed { head: 0, error: Length });
}

#[test]
fn too_many_indirect_descriptors_are_refused_and_many_are_not() {
    for (count, fits) in [(MAX_DESCRIPTORS - 1, true), (MAX_DESCRIPTORS, false)] {
        let link = |index: usize| {
            let flags = if index + 1 == count { 0 } else { NEXT };
            descriptor(DATA, 1, flags, u16::try_from(index + 1).unwrap())
        };
        let table: Vec<_> = (0..count).map(link).collect();
        let ring = indirect(u32::try_from(count * 16).unwrap(), &table);
        assert_eq!(popped(&ring) == Popped::Chain, fits, "{count}");
    }
}

#[test]
fn unusual_chains_that_are_allowed_stay_allowed() {
    let two = [descriptor(DATA, 16, NEXT, 1), descriptor(DATA + 64, 1, WRITE, 0)];
    let cases: Vec<(&str, Ring)> = vec![
        ("plain", ring(&two)),
        ("indirect", indirect(32, &two)),
        ("indirect marked writable", {
            let ring = indirect(32, &two);
            ring.set(0, descriptor(TABLE, 32, INDIRECT | WRITE, 0));
            ring
        }),
        ("indirect behind a direct one", {
            let ring = indirect(16, &[two[1]]);
            ring.set(0, descriptor(DATA, 16, NEXT, 1));
            ring.set(1, descriptor(TABLE, 16, INDIRECT, 0));
            ring
        }),
        ("an empty one in the middle", ring(&[two[0], descriptor(0, 0, NEXT, 2), descriptor(DATA + 64, 1, WRITE, 0)])),
        ("indirect table across pages", {
            let ring = ring(&[descriptor(DATA + 0xff0, 32, INDIRECT, 0)]);
            put(&ring.memory, DATA + 0xff0, &two.concat());
            ring
        }),
    ];
    for (what, ring) in cases {
        let mut chain = Chain::default();
        assert_eq!(pop(&mut ring.queue(), &ring.memory, true, &mut chain).unwrap(), Popped::Chain, "{what}");
        assert_eq!(chain.readable(), [Segment { address: GuestAddress(DATA), length: 16 }], "{what}");
        assert_eq!(chain.writable(), [Segment { address: GuestAddress(DATA + 64), length: 1 }], "{what}");
    }
}

#[test]
fn indirect_descriptors_must_be_negotiated() {
    let ring = indirect(16, &[descriptor(DATA, 16, 0, 0)]);
    let mut chain = Chain::default();
    let found = pop(&mut ring.queue(), &ring.memory, false, &mut chain).unwrap();
    assert_eq!(found, Popped::Malformed { head: 0, error: ChainError::Indirect });
}

#[test]
fn a_broken_ring_is_not_served() {
    let mut chain = Chain::default();
    for (what, heads, index) in [
        ("head out of bounds", vec![SIZE], None),
        ("head at the end of numbers", vec![u16::MAX], None),
        ("index one too far", vec![0], Some(SIZE + 1)),
        ("index backwards", vec![0], Some(u16::MAX)),
    ] {
        let mut ring = ring(&[descriptor(DATA, 16, 0, 0)]);
        ring.set_available(0);
        heads.into_iter().for_each(|head| ring.offer(head));
        if let Some(index) = index {
            ring.set_available(index);
        }
        assert!(pop(&mut ring.queue(), &ring.memory, true, &mut chain).is_err(), "{what}");
    }
}

#[test]
fn one_chain_offered_many_times_is_many_chains() {
    let mut ring = ring(&[descriptor(DATA, 16, 0, 0)]);
    (1..SIZE).for_each(|_| ring.offer(0));
    let (mut queue, mut chain) = (ring.queue(), Chain::default());
    for _ in 0..SIZE {
        assert_eq!(pop(&mut queue, &ring.memory, true, &mut chain).unwrap(), Popped::Chain);
    }
    assert_eq!(pop(&mut queue, &ring.memory, true, &mut chain).unwrap(), Popped::Empty);
    unpop(&mut queue, 2);
    assert_eq!(pop(&mut queue, &ring.memory, true, &mut chain).unwrap(), Popped::Chain);
}

#[test]
fn what_the_driver_changes_afterwards_does_not_matter() {
    let ring = ring(&[descriptor(DATA, 16, 0, 0)]);
    let mut chain = Chain::default();
    pop(&mut ring.queue(), &ring.memory, true, &mut chain).unwrap();
    ring.set(0, descriptor(MEMORY * 2, u32::MAX, WRITE, 0));
    assert_eq!(chain.readable(), [Segment { address: GuestAddress(DATA), length: 16 }]);
}

proptest! {
    #[test]
    fn whatever_is_in_the_table_segments_are_in_memory(
        table in prop::collection::vec((any::<u64>(), any::<u32>(), 0u16..8, 0u16..10), 8),
        near in any::<bool>(),
    ) {
        let table: Vec<_> = table
            .into_iter()
            .map(|(address, length, flags, next)| {
                let (address, length) = if near { (address % (MEMORY + 64), length % 4096) } else { (address, length) };
                descriptor(address, length, flags, next)
            })
            .collect();
        let ring = ring(&table);
        let mut chain = Chain::default();
        if pop(&mut ring.queue(), &ring.memory, true, &mut chain).unwrap() == Popped::Chain {
            for segment in chain.readable().iter().chain(chain.writable()) {
                prop_assert!(segment.length > 0);
                prop_assert!(segment.address.0 + u64::from(segment.length) <= MEMORY);
            }
        }
    }
}
