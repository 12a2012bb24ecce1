//! Scratch disks made with the host's `mkfs.ext4`, checked with its `e2fsck`, mounted as root.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use volume::{DEFAULT_SIZE, MIN_SIZE, Scratch, VolumeError};

fn container(home: &Path, name: &str) -> PathBuf {
    let directory = home.join("containers").join(name);
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}", output.status);
    text
}

/// A small file system of its own, mounted by root and unmounted when dropped.
struct Mount(TempDir);

impl Mount {
    fn tmpfs(options: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", directory.path().to_str().unwrap()]);
        Self(directory)
    }

    fn image(image: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        run("mount", &["-o", "loop", image.to_str().unwrap(), directory.path().to_str().unwrap()]);
        Self(directory)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[self.0.path().to_str().unwrap()]);
    }
}

#[test]
fn a_disk_is_sparse_clean_and_made_in_milliseconds_once_there_is_a_template() {
    let home = tempfile::tempdir().unwrap();
    Scratch::create(home.path(), &container(home.path(), "first"), DEFAULT_SIZE).unwrap();
    let mut best = Duration::MAX;
    for index in 0..5 {
        let directory = container(home.path(), &index.to_string());
        let begun = Instant::now();
        let path = Scratch::create(home.path(), &directory, DEFAULT_SIZE).unwrap();
        best = best.min(begun.elapsed());
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.len(), DEFAULT_SIZE);
        assert_eq!(found.mode() & 0o777, 0o600);
        assert!(found.blocks() * 512 <= 512 << 10, "{} KiB", found.blocks() / 2);
        assert_eq!(names(&directory), ["scratch.ext4"]);
        assert_eq!(Scratch::check(&path).unwrap(), DEFAULT_SIZE);
    }
    println!("a clone took {best:?}");
    assert!(best < Duration::from_millis(50), "a clone took {best:?}");
    let path = home.path().join("containers/0/scratch.ext4");
    run("e2fsck", &["-fn", path.to_str().unwrap()]);
    assert_eq!(names(&home.path().join("scratch")), ["ext4-1-10737418240.img", "lock"]);
}

#[test]
fn the_file_system_has_a_journal_and_leaves_the_kernel_nothing_to_initialise() {
    let home = tempfile::tempdir().unwrap();
    let path = Scratch::create(home.path(), &container(home.path(), "c"), 512 << 20).unwrap();
    let text = run("dumpe2fs", &[path.to_str().unwrap()]);
    let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    assert!(field("Filesystem features:").contains("has_journal"), "{text}");
    assert_eq!(field("Reserved block count:"), "0");
    let groups: Vec<_> = text.lines().filter(|l| l.starts_with("Group ") && l.contains("INODE_UNINIT")).collect();
    assert!(!groups.is_empty() && groups.iter().all(|l| l.contains("ITABLE_ZEROED")), "{text}");
}

#[test]
fn the_smallest_disk_mounts_takes_files_and_stays_clean() {
    let home = tempfile::tempdir().unwrap();
    let path = Scratch::create(home.path(), &container(home.path(), "c"), MIN_SIZE).unwrap();
    {
        let mount = Mount::image(&path);
        assert_eq!(names(mount.0.path()), ["lost+found"]);
        fs::create_dir(mount.0.path().join("upper")).unwrap();
        fs::write(mount.0.path().join("upper/file"), vec![7; 1 << 20]).unwrap();
    }
    run("e2fsck", &["-fn", path.to_str().unwrap()]);
}

#[test]
fn sizes_are_rounded_and_bounded() {
    let home = tempfile::tempdir().unwrap();
    let path = Scratch::create(home.path(), &container(home.path(), "odd"), (64 << 20) + 1).unwrap();
    assert_eq!(fs::metadata(path).unwrap().len(), 65 << 20);
    let directory = container(home.path(), "c");
    let small = Scratch::create(home.path(), &directory, MIN_SIZE - 1).unwrap_err();
    assert!(matches!(small, VolumeError::TooSmall { .. }), "{small}");
    let large = Scratch::create(home.path(), &directory, u64::MAX).unwrap_err();
    assert!(matches!(large, VolumeError::TooLarge { .. }), "{large}");
    assert!(names(&directory).is_empty());
}

#[test]
fn a_container_keeps_the_disk_that_it_has() {
    let home = tempfile::tempdir().unwrap();
    let directory = container(home.path(), "c");
    let path = Scratch::create(home.path(), &directory, MIN_SIZE).unwrap();
    let before = fs::metadata(&path).unwrap().ino();
    let again = Scratch::create(home.path(), &directory, MIN_SIZE).unwrap_err();
    assert!(matches!(again, VolumeError::Exists { .. }), "{again}");
    assert_eq!(fs::metadata(&path).unwrap().ino(), before);
}

#[test]
fn what_a_killed_attempt_left_is_no_obstacle() {
    let home = tempfile::tempdir().unwrap();
    let directory = container(home.path(), "c");
    fs::write(directory.join("scratch.ext4.part"), "half").unwrap();
    fs::create_dir(home.path().join("scratch")).unwrap();
    let name = format!("ext4-1-{MIN_SIZE}");
    fs::write(home.path().join("scratch").join(format!("{name}.part")), "half").unwrap();
    fs::write(home.path().join("scratch").join(format!("{name}.img")), "damaged").unwrap();
    Scratch::create(home.path(), &directory, MIN_SIZE).unwrap();
    assert_eq!(names(&directory), ["scratch.ext4"]);
    assert_eq!(names(&home.path().join("scratch")), [format!("{name}.img"), "lock".into()]);
}

#[test]
fn a_damaged_disk_is_noticed() {
    let home = tempfile::tempdir().unwrap();
    let path = Scratch::create(home.path(), &container(home.path(), "c"), MIN_SIZE).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(MIN_SIZE / 2).unwrap();
    assert!(matches!(Scratch::check(&path), Err(VolumeError::Damaged { .. })));
    (&file).write_all(&[0; 4096]).unwrap();
    file.set_len(MIN_SIZE).unwrap();
    assert!(matches!(Scratch::check(&path), Err(VolumeError::Damaged { .. })));
}

#[test]
fn ten_at_once_make_one_template() {
    let home = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for index in 0..10 {
            let home = home.path();
            scope.spawn(move || {
                Scratch::create(home, &container(home, &index.to_string()), MIN_SIZE).unwrap();
            });
        }
    });
    assert_eq!(names(&home.path().join("scratch")).len(), 2);
}

#[test]
fn a_full_disk_is_said_and_nothing_is_left() {
    let mount = Mount::tmpfs("size=220k");
    let home = mount.0.path();
    let directory = container(home, "c");
    fs::write(home.join("filler"), vec![1; 150 << 10]).unwrap();
    let error = Scratch::create(home, &directory, DEFAULT_SIZE).unwrap_err();
    assert!(matches!(error, VolumeError::NoSpace { .. }), "{error:?}");
    assert!(names(&directory).is_empty());
    assert_eq!(names(&home.join("scratch")), ["lock"]);

    // Room for the template, not for a clone.
    fs::remove_file(home.join("filler")).unwrap();
    Scratch::create(home, &directory, DEFAULT_SIZE).unwrap();
    let mut filler = File::create(home.join("filler")).unwrap();
    while filler.write_all(&[1; 4096]).is_ok() {}
    let directory = container(home, "d");
    let error = Scratch::create(home, &directory, DEFAULT_SIZE).unwrap_err();
    assert!(matches!(error, VolumeError::NoSpace { .. }), "{error:?}");
    assert!(names(&directory).is_empty());
}
