//! Disks of volumes: made once, locked by whoever has them, judged by their superblock.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Barrier;

use volume::{DISK_NAME, MIN_SIZE, Volume, VolumeError};

#[test]
fn a_disk_is_made_once_whoever_comes_first() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("volumes/data");
    fs::create_dir_all(&directory).unwrap();
    assert_eq!(Volume::bytes_on_disk(&directory), 0);
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                let path = Volume::ensure(home.path(), &directory, MIN_SIZE).unwrap();
                let file = OpenOptions::new().write(true).open(path).unwrap();
                file.write_all_at(b"mine", 16 << 20).unwrap();
            });
        }
    });
    let path = directory.join(DISK_NAME);
    assert_eq!(Volume::ensure(home.path(), &directory, MIN_SIZE * 2).unwrap(), path);
    let mut kept = [0; 4];
    fs::File::open(&path).unwrap().read_exact_at(&mut kept, 16 << 20).unwrap();
    assert_eq!(&kept, b"mine");
    assert_eq!(fs::metadata(&path).unwrap().len(), MIN_SIZE);
    assert!((4096..MIN_SIZE / 4).contains(&Volume::bytes_on_disk(&directory)));
}

#[test]
fn a_file_that_is_no_disk_is_not_used() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("volumes/data");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(DISK_NAME), "somebody's notes").unwrap();
    assert!(matches!(Volume::ensure(home.path(), &directory, MIN_SIZE), Err(VolumeError::Damaged { .. })));
    assert_eq!(fs::read(directory.join(DISK_NAME)).unwrap(), b"somebody's notes");
}

#[test]
fn a_lock_is_one_writers_or_many_readers() {
    let home = tempfile::tempdir().unwrap();
    let path = Volume::ensure(home.path(), home.path(), MIN_SIZE).unwrap();
    let lock = |shared| Volume::try_lock(&path, shared).unwrap();
    let writer = lock(false).unwrap();
    assert!(lock(false).is_none() && lock(true).is_none());
    drop(writer);
    let readers = [lock(true).unwrap(), lock(true).unwrap()];
    assert!(lock(false).is_none());
    drop(readers);
    assert!(lock(false).is_some());
}

#[test]
fn a_disk_that_nobody_mounted_or_that_was_torn_off_has_to_be_written() {
    let home = tempfile::tempdir().unwrap();
    let path = Volume::ensure(home.path(), home.path(), MIN_SIZE).unwrap();
    assert!(Volume::needs_writing(&path).unwrap(), "fresh");
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    // Mounted once (s_mnt_count), and unmounted.
    file.write_all_at(&[1, 0], 1024 + 0x34).unwrap();
    assert!(!Volume::needs_writing(&path).unwrap());
    // INCOMPAT_RECOVER.
    let mut features = [0; 1];
    file.read_exact_at(&mut features, 1024 + 0x60).unwrap();
    file.write_all_at(&[features[0] | 4], 1024 + 0x60).unwrap();
    assert!(Volume::needs_writing(&path).unwrap());
}
