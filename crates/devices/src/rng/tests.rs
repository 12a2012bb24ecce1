use super::*;
use crate::testing::{DATA, Ring, get, memory};

#[test]
fn requests_get_entropy_up_to_a_bound() {
    let memory = memory();
    let mut ring = Ring::new(&memory, 0, QUEUE_SIZE);
    let mut queue = ring.queue();
    let mut engine = Engine::default();
    for (what, parts, expected) in [
        ("a few bytes", vec![(DATA, 64, true)], 64),
        ("split", vec![(DATA, 7, true), (DATA + 100, 9, true)], 16),
        ("8 MiB", vec![(DATA, 8 << 20, true)], u32::try_from(REQUEST_MAX).unwrap()),
        ("nothing", vec![(DATA, 0, true)], 0),
        ("not writable", vec![(DATA, 64, false)], 0),
        ("a gibibyte, which is not there", vec![(DATA, 1 << 30, true)], 0),
    ] {
        let head = ring.chain(&parts);
        assert!(engine.process(&memory, &mut queue).unwrap());
        assert_eq!(ring.used(), [(u32::from(head), expected)], "{what}");
    }
    assert!(!engine.process(&memory, &mut queue).unwrap());
    assert_ne!(get(&memory, DATA, 64), [0; 64]);
    assert_eq!(get(&memory, DATA + (8 << 20) - 64, 64), [0; 64], "beyond the bound nothing is written");
}
