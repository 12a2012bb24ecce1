//! Several at once, and those that are killed: one conversion per layer, nothing half, nothing lost.

mod kit;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use image::{Images, LoadSource};
use kit::*;

/// Not a test of its own: what other processes run. They are this very program, told so by the environment.
#[test]
fn child() {
    let (Some(home), Some(path)) = (std::env::var_os("CHILD_HOME"), std::env::var_os("CHILD_IMAGE")) else { return };
    let images = Images::open(Path::new(&home)).unwrap();
    let record = Record::default();
    images.load(LoadSource::Path(path.into()), &record, None).unwrap();
    println!("converted={} shared={}", record.counts().0, record.counts().1);
}

fn load_in_child(home: &Home, image: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("CHILD_HOME", home.images.store().home()).env("CHILD_IMAGE", image);
    command
}

fn big_image(home: &Home, layers: u64, size: usize) -> std::path::PathBuf {
    let layers: Vec<_> =
        (0..layers).map(|i| Layer::plain(&Tar::default().file(&format!("file-{i}"), &noise(size, i)))).collect();
    Layout::image("big:1", &layers).write(&home.directory.path().join("big"))
}

#[test]
fn four_processes_that_load_one_image_convert_each_layer_once() {
    let home = Home::new();
    let image = big_image(&home, 5, 2 << 20);
    let children: Vec<_> = (0..4).map(|_| load_in_child(&home, &image).spawn().unwrap()).collect();
    let mut totals = [0; 2];
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        for (total, key) in totals.iter_mut().zip(["converted=", "shared="]) {
            let rest = text.split(key).nth(1).unwrap();
            *total += rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<usize>().unwrap();
        }
    }
    assert_eq!(totals, [5, 15], "converted and shared");
    assert_eq!(home.images.list().unwrap().len(), 1);
}

#[test]
fn threads_that_load_and_remove_overlapping_images_never_see_half_of_one() {
    let home = Home::new();
    let base = small_layer("base", "base");
    let paths: Vec<_> = (0..4)
        .map(|i| {
            let layers = [base.clone(), small_layer("own", &i.to_string())];
            Layout::image(&format!("boat:v{i}"), &layers).write(&home.directory.path().join(format!("image-{i}")))
        })
        .collect();
    let barrier = Barrier::new(paths.len());
    std::thread::scope(|scope| {
        for (index, path) in paths.iter().enumerate() {
            let (home, barrier) = (&home, &barrier);
            scope.spawn(move || {
                // A state of its own, as another process has.
                let images = Images::open(home.images.store().home()).unwrap();
                let name = format!("boat:v{index}");
                barrier.wait();
                for _ in 0..15 {
                    images.load(LoadSource::Path(path.clone()), &(), None).unwrap();
                    let device = images.root_device(&images.resolve(&name).unwrap()).unwrap();
                    assert_eq!(device.extents.len(), 1, "small contents are in the metadata image");
                    let reader = erofs::reader::Image::open(Extents::open(&device)).unwrap();
                    let inode = reader.lookup(b"etc/own").unwrap().unwrap();
                    assert_eq!(reader.read_file(&inode, 100).unwrap(), index.to_string().as_bytes());
                    drop(device);
                    images.remove(&name, false).unwrap();
                }
            });
        }
    });
    home.images.collect().unwrap();
    assert!(home.leftovers().is_empty(), "{:?}", home.leftovers());
}

#[test]
fn a_load_that_is_killed_leaves_nothing_that_the_next_one_minds() {
    let home = Home::new();
    let image = big_image(&home, 4, 4 << 20);
    let begun = Instant::now();
    assert!(load_in_child(&home, &image).output().unwrap().status.success());
    let whole = begun.elapsed();
    home.images.remove("big:1", false).unwrap();
    assert!(home.leftovers().is_empty());
    for round in 0..20 {
        let mut child = load_in_child(&home, &image).spawn().unwrap();
        std::thread::sleep(whole * round / 20);
        child.kill().unwrap();
        child.wait().unwrap();
        // What is recorded is whole; what is not is collected.
        for record in home.images.list().unwrap() {
            home.images.root_device(&record).unwrap();
            home.images.remove(&record.id, true).unwrap();
        }
        home.images.collect().unwrap();
        assert!(home.leftovers().is_empty(), "round {round}: {:?}", home.leftovers());
    }
    home.load_path(&image).unwrap();
}

#[test]
fn one_that_waits_takes_over_from_one_that_died() {
    let home = Home::new();
    let image = big_image(&home, 1, 1 << 20);
    // Somebody holds the layer's conversion and dies.
    let diff_id = Layer::plain(&Tar::default().file("file-0", &noise(1 << 20, 0))).diff_id();
    let lock = home.images.store().lock_conversion(&diff_id, || ()).unwrap();
    let mut child = load_in_child(&home, &image).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    drop(lock);
    assert!(child.wait().unwrap().success());
    assert!(fs::read_dir(home.images.store().home().join("tmp")).unwrap().next().is_none());
}
