//! A metadata image is a function of its layers: whatever was loaded before, however often it is made, on whichever
//! machine.

mod kit;

use std::fs;

use kit::*;

/// The layers of two images that share some: files of all sizes, links, attributes that meet.
fn layers() -> (Vec<Layer>, Vec<Layer>) {
    let mut base = Tar::default().directory("etc").symlink("bin", "usr/bin");
    for number in 0..300_usize {
        let content = noise(number * 7, number as u64);
        base = base.file(&format!("usr/share/{:02}/file-{number}", number % 37), &content);
    }
    let app = Tar::default().file("bin/app", &noise(70_000, 1)).member("bin/again", b'1', b"", "bin/app");
    let change = Tar::default().file("usr/share/.wh.03", b"").file("etc/config", b"key = value");
    let (base, app, change) = (Layer::gzip(&base), Layer::plain(&app), Layer::zstd(&change));
    (vec![base.clone(), app], vec![base, change])
}

/// The name and the bytes of an image's metadata.
fn root_of(home: &Home, name: &str) -> (String, Vec<u8>) {
    let image = home.images.resolve(name).unwrap();
    let device = home.images.root_device(&image).unwrap();
    assert_eq!(device.extents[0].length, image.root.length);
    (image.root.digest, fs::read(&device.extents[0].path).unwrap())
}

#[test]
fn the_same_layers_give_the_same_bytes_in_any_order_of_loading() {
    let (one, two) = layers();
    let images = [Layout::image("one:1", &one), Layout::image("two:1", &two)];
    let homes = [Home::new(), Home::new()];
    for (home, order) in homes.iter().zip([[0, 1], [1, 0]]) {
        for image in order {
            home.load_layout(&images[image]).unwrap();
        }
    }
    for name in ["one:1", "two:1"] {
        assert_eq!(root_of(&homes[0], name), root_of(&homes[1], name), "{name}");
    }
    assert_ne!(root_of(&homes[0], "one:1"), root_of(&homes[0], "two:1"));
}

#[test]
fn a_metadata_image_that_is_gone_comes_back_as_it_was() {
    let home = Home::new();
    home.load_layout(&Layout::image("one:1", &layers().0)).unwrap();
    let before = root_of(&home, "one:1");
    let path = home.images.root_device(&home.images.resolve("one:1").unwrap()).unwrap().extents[0].path.clone();
    fs::remove_file(path).unwrap();
    assert_eq!(root_of(&home, "one:1"), before);
}
