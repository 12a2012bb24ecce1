//! The fuzzer's seeds are disks that can be read, so that it begins where the reader does.

mod kit;

use std::fs;
use std::path::Path;

use ext4::FileSystem;

#[test]
fn seeds_are_disks() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/ext4");
    let mut replayed = 0;
    for seed in fs::read_dir(seeds).unwrap() {
        let path = seed.unwrap().path();
        let system = FileSystem::open(fs::read(&path).unwrap()).unwrap();
        assert!(kit::tree(&system).unwrap().len() >= 5, "{}", path.display());
        replayed += system.replayed_blocks();
    }
    assert_eq!(replayed, 1);
}
