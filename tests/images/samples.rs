//! Small images for tests that use hundreds of copies.

use std::path::{Path, PathBuf};

use e2e::archives::{Layer, Layout, Tar, noise};
use e2e::registry::Registry;
use tempfile::TempDir;

use crate::tools::{Surroundings, oci};

/// A directory in memory, where there is one.
pub(crate) fn memory() -> TempDir {
    let shared = Path::new("/dev/shm");
    let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    TempDir::with_prefix_in("coracle-images-", parent).expect("a temporary directory")
}

/// Two images that share layers, in a layout each.
pub(crate) struct Pair {
    directory: TempDir,
}

impl Pair {
    /// `red:latest` has layers 0 to 4, `blue:latest` 0 to 2 and 10, 11: about two megabytes each.
    pub(crate) fn new() -> Self {
        let directory = memory();
        for (name, layers) in [("red", [0, 1, 2, 3, 4]), ("blue", [0, 1, 2, 10, 11])] {
            let mut layout = Layout::new(&directory.path().join(name));
            let layers: Vec<Layer> = layers.iter().map(|number| layer(&layout, *number)).collect();
            let manifest = layout.manifest(&layers, name);
            layout.name(manifest, &format!("{name}:latest"));
        }
        Self { directory }
    }

    /// The layout of one of them.
    pub(crate) fn layout(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts both into a registry, as `red:latest` and `blue:latest`.
    pub(crate) fn publish(&self, registry: &Registry) {
        let user = Surroundings::new();
        for name in ["red", "blue"] {
            let tag = format!("{name}:latest");
            let to = format!("docker://{}", registry.image(&tag));
            user.skopeo_copy(&[], &oci(&self.layout(name), &tag), &to);
        }
    }

    /// `load -i LAYOUT`.
    pub(crate) fn load(&self, name: &str) -> Vec<String> {
        let path = self.layout(name).into_os_string().into_string().expect("a path that is text");
        ["load".to_owned(), "-i".to_owned(), path].into()
    }
}

/// `pull` of an image that was published.
pub(crate) fn pull(registry: &Registry, name: &str) -> Vec<String> {
    ["pull".to_owned(), registry.image(name)].into()
}

/// `rmi` of a name.
pub(crate) fn remove(name: &str) -> Vec<String> {
    ["rmi".to_owned(), name.to_owned()].into()
}

/// A layer with small files, a large one, and one that takes the place of a file below. Layer 0 has a megabyte: so
/// much that a download of it that is interrupted is kept.
pub(crate) fn layer(layout: &Layout, number: u64) -> Layer {
    let mut tar = Tar::default().directory("etc").directory("usr/").file("etc/motd", format!("{number}\n").as_bytes());
    for small in 0..20 {
        tar = tar.file(&format!("usr/small-{number}-{small}"), format!("{small}\n").repeat(small).as_bytes());
    }
    tar = tar
        .file(&format!("usr/large-{number}"), &noise(if number == 0 { 1_200_000 } else { 200_000 }, number))
        .symlink("usr/newest", "large");
    layout.layer(&tar.end())
}
