//! Disks that are full, at any point. The error says so and names the file, nothing half is visible, nothing is left,
//! and the next command works. Needs root: the disks are mounted here.

mod kit;

use std::fs;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use image::{ImageError, Images, ImportRequest, LoadSource, VerifyRequest};
use kit::*;

/// Runs `test` in a directory on a file system in memory, of that size.
fn on_a_disk(options: &str, test: impl FnOnce(&Path)) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", path]);
    let result = catch_unwind(AssertUnwindSafe(|| test(directory.path())));
    // Lazily: a test beside this one may be starting a program, which for a moment has all our files.
    run("umount", &["-l", path]);
    result.unwrap_or_else(|panic| resume_unwind(panic));
}

fn layers() -> [Layer; 3] {
    [
        Layer::gzip(&Tar::default().file("one", &noise(150_000, 1))),
        Layer::plain(&Tar::default().file("etc/a", b"content").file("two", &noise(90_000, 2))),
        Layer::zstd(&Tar::default().file("three", &noise(60_000, 3))),
    ]
}

/// Loads into a home on a disk with these options. Whether it worked; if not, it must be as it should.
fn load(options: &str, archive: &Path) -> bool {
    let mut worked = false;
    on_a_disk(options, |disk| {
        let said = |error: &ImageError| {
            let text = chain(error);
            assert!(text.to_lowercase().contains("no space left"), "{options}: {text}");
            assert!(text.contains(disk.to_str().unwrap()), "{options}: {text}");
            assert!(error.hint().is_some(), "{options}: {text}");
        };
        let images = match Images::open(&disk.join("data")) {
            Ok(images) => images,
            Err(error) => return said(&error),
        };
        let home = Home { images, directory: tempfile::tempdir().unwrap() };
        match home.load_path(archive) {
            Ok(_) => {
                worked = true;
                // It writes metadata images to compare them, which may be too much for this disk.
                match home.images.verify(&VerifyRequest::default(), &()) {
                    Ok(report) => assert!(report.is_whole(), "{options}: {report:?}"),
                    Err(error) => said(&error),
                }
            }
            Err(error) => {
                said(&error);
                assert!(home.images.list().unwrap().is_empty(), "{options}");
                // Where the records failed, cleaning up is the next command's, which knows what they say.
                home.images.collect().unwrap();
                assert!(home.leftovers().is_empty(), "{options}: {:?}", home.leftovers());
            }
        }
    });
    worked
}

#[test]
fn a_disk_that_is_full_at_any_point_of_a_load() {
    let directory = tempfile::tempdir().unwrap();
    let layout = Layout::image("boat:1", &layers()).write(&directory.path().join("layout"));
    let outcomes: Vec<bool> = (1..60).map(|size| load(&format!("size={}k", size * 12), &layout)).collect();
    assert!(outcomes.iter().filter(|worked| !**worked).count() > 20, "{outcomes:?}");
    assert!(outcomes.last().unwrap() & outcomes.is_sorted(), "with more room it does not fail again: {outcomes:?}");
}

#[test]
fn a_disk_without_inodes_at_any_point_of_a_load() {
    let directory = tempfile::tempdir().unwrap();
    let layout = Layout::image("boat:1", &layers()).write(&directory.path().join("layout"));
    let outcomes: Vec<bool> = (4..60).map(|inodes| load(&format!("nr_inodes={inodes}"), &layout)).collect();
    assert!(outcomes.iter().filter(|worked| !**worked).count() > 20 && *outcomes.last().unwrap(), "{outcomes:?}");
}

#[test]
fn a_disk_that_fills_up_while_one_imports_tags_and_heals() {
    on_a_disk("size=3m", |disk| {
        let images = Images::open(&disk.join("data")).unwrap();
        let home = Home { images, directory: tempfile::tempdir().unwrap() };
        home.load_layout(&Layout::image("boat:1", &layers())).unwrap();
        let before = home.leftovers();
        let request = ImportRequest { name: Some("new".into()), ..ImportRequest::default() };
        let tar = Tar::default().file("big", &noise(4 << 20, 9)).end();
        let error = home.images.import(LoadSource::Stream(Box::new(Cursor::new(tar))), &request, &()).unwrap_err();
        assert!(chain(&error).contains("no space left") && error.hint().is_some(), "{}", chain(&error));
        assert_eq!(home.leftovers(), before);

        // Not a byte is left.
        let root = home.images.resolve("boat:1").unwrap().root.digest;
        let root = home.images.store().path(&store::Object::root(root.parse().unwrap()));
        fs::write(&root, "damaged").unwrap();
        let filler = disk.join("filler");
        let mut size = 4 << 20;
        while size > 0 {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(&filler).unwrap();
            if std::io::Write::write_all(&mut file, &vec![1; size]).is_err() {
                size /= 2;
            }
        }
        let error = home.images.verify(&VerifyRequest::default(), &()).unwrap_err();
        assert!(chain(&error).contains("no space left"), "{}", chain(&error));
        let error = (0..500).find_map(|n| home.images.tag("boat:1", &format!("boat:{n}-{}", "x".repeat(100))).err());
        let error = error.expect("the records need room for names");
        assert!(chain(&error).contains("state.db") && error.hint().is_some(), "{}", chain(&error));
        home.images.list().unwrap();
        fs::remove_file(filler).unwrap();
        home.images.tag("boat:1", "boat:again").unwrap();
        assert!(home.images.verify(&VerifyRequest::default(), &()).unwrap().is_whole());
        assert_eq!(home.file_content("boat:again", "etc/a").as_deref(), Some("content"));
    });
}

#[test]
fn removing_and_pruning_work_on_a_full_disk() {
    on_a_disk("size=80m", |disk| {
        let open = || Images::open(&disk.join("data"));
        let home = Home { images: open().unwrap(), directory: tempfile::tempdir().unwrap() };
        home.load_layout(&Layout::image("boat:1", &layers())).unwrap();
        home.load_layout(&Layout::image("ship:1", &[small_layer("a", "b")])).unwrap();
        let fill = || fs::write(disk.join("filler"), vec![1; 100 << 20]).unwrap_err();
        fill();
        let removed = home.images.remove("boat:1", false).unwrap();
        assert!(removed.bytes > 300_000, "{removed:?}");
        fs::remove_file(disk.join("filler")).unwrap();
        // The next command sets some room aside again, and finds a full disk at its very beginning.
        drop(open().unwrap());
        fill();
        let images = open().unwrap();
        images.prune(&image::PruneRequest { all: true, ..image::PruneRequest::default() }).unwrap();
        assert!(home.leftovers().is_empty());
    });
}
