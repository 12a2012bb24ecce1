//! Everything at once: loads, imports, saves, removals, prunings and verifications of images that share layers. Nobody
//! sees half of anything, nothing that is whole is called damaged, and nothing is left in the end.

mod kit;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use image::{ImageError, Images, ImportRequest, LoadSource, PruneRequest, VerifyRequest};
use kit::*;
use state::StateError;

const ROUNDS: usize = 12;

/// What may go wrong when somebody else removes what one is about to use.
fn allowed(error: &ImageError) -> bool {
    matches!(error, ImageError::NoSuchImage { .. } | ImageError::State(StateError::NoSuchImage { .. }))
}

fn check<T>(what: &str, result: Result<T, ImageError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if allowed(&error) => None,
        Err(error) => panic!("{what}: {}", chain(&error)),
    }
}

fn base() -> Layer {
    Layer::gzip(&Tar::default().directory("etc").file("etc/base", b"base").file("bin/tool", &noise(100_000, 1)))
}

fn content(images: &Images, name: &str, path: &str) -> Result<Option<String>, ImageError> {
    let device = images.root_device(&images.resolve(name)?)?;
    let reader = erofs::reader::Image::open(Extents::open(&device)).unwrap();
    let Some(inode) = reader.lookup(path.as_bytes()).unwrap() else { return Ok(None) };
    Ok(Some(String::from_utf8(reader.read_file(&inode, 1000).unwrap()).unwrap()))
}

#[test]
fn everything_at_once() {
    let home = Home::new();
    let paths: Vec<_> = (0..3)
        .map(|n| {
            let layers = [base(), small_layer("own", &format!("own {n}"))];
            Layout::image(&format!("boat:{n}"), &layers).write(&home.directory.path().join(n.to_string()))
        })
        .collect();
    let root_fs = base().tar;
    let busy = AtomicUsize::new(4);
    let verified = AtomicUsize::new(0);
    let used = AtomicUsize::new(0);
    let open = || Images::open(home.images.store().home()).unwrap();
    let failed = AtomicBool::new(false);
    struct OnPanic<'a>(&'a AtomicUsize, &'a AtomicBool);
    impl Drop for OnPanic<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
            if std::thread::panicking() {
                self.1.store(true, Ordering::SeqCst);
            }
        }
    }
    std::thread::scope(|scope| {
        for (n, path) in paths.iter().enumerate() {
            let (busy, used, failed) = (&busy, &used, &failed);
            scope.spawn(move || {
                let _end = OnPanic(busy, failed);
                let (images, name) = (open(), format!("boat:{n}"));
                for _ in 0..ROUNDS {
                    images.load(LoadSource::Path(path.clone()), &(), None).unwrap();
                    if let Some(found) = check("use", content(&images, &name, "etc/own")) {
                        assert_eq!(found, Some(format!("own {n}")));
                        used.fetch_add(1, Ordering::Relaxed);
                    }
                    let mut archive = Vec::new();
                    check("save", images.save(std::slice::from_ref(&name), &mut archive));
                    check("remove", images.remove(&name, false));
                }
            });
        }
        let (busy, verified, failed) = (&busy, &verified, &failed);
        scope.spawn(move || {
            let _end = OnPanic(busy, failed);
            let images = open();
            for _ in 0..ROUNDS {
                let stream = Box::new(std::io::Cursor::new(root_fs.clone()));
                let request = ImportRequest { name: Some("imported".into()), ..ImportRequest::default() };
                images.import(LoadSource::Stream(stream), &request, &()).unwrap();
                check("use", content(&images, "imported", "etc/base"));
                check("remove", images.remove("imported", true));
            }
        });
        for all in [false, true] {
            scope.spawn(move || {
                let images = open();
                while busy.load(Ordering::SeqCst) > 0 && !failed.load(Ordering::SeqCst) {
                    images.prune(&PruneRequest { all, ..PruneRequest::default() }).unwrap();
                    images.usage().unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(if all { 150 } else { 20 }));
                }
            });
        }
        scope.spawn(move || {
            let images = open();
            while busy.load(Ordering::SeqCst) > 0 && !failed.load(Ordering::SeqCst) {
                let report = images.verify(&VerifyRequest::default(), &()).unwrap();
                assert_eq!(report.damaged().collect::<Vec<_>>(), Vec::<&image::Check>::new());
                assert!(report.is_whole());
                verified.fetch_add(report.checks.len(), Ordering::Relaxed);
            }
        });
    });
    assert!(used.into_inner() > 0 && verified.load(Ordering::Relaxed) > 0);
    assert!(home.images.verify(&VerifyRequest::default(), &()).unwrap().is_whole());
    home.images.prune(&PruneRequest { all: true, ..PruneRequest::default() }).unwrap();
    assert!(home.leftovers().is_empty(), "{:?}", home.leftovers());
    assert!(home.images.list().unwrap().is_empty());
}
