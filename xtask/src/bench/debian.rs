//! `bench image`, second part: a Debian with Python and a compiler, as people pull it.
//!
//! Four layers, gzip and zstd, about 500 MB uncompressed; loaded from one archive and pulled from one registry by
//! Coracle and by those who unpack. All start from an empty store. The floor is what no one can go below who verifies:
//! inflating the layers and hashing them before and after, on the same cores, several layers at once, nothing kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::layout::{self, Compression, Layer};
use super::paired::{Candidate, compare};
use super::registry::Registry;
use crate::{process, project};

/// The image's name in its layouts and in the registry.
const NAME: &str = "debian-python";

/// What each layer takes of the root, as arguments of `tar`.
const LAYERS: &[&[&str]] = &[
    &["--exclude=./usr/lib", "--exclude=./usr/share", "."],
    &["./usr/share"],
    &["--exclude=./usr/lib/gcc", "./usr/lib"],
    &["./usr/lib/gcc"],
];

/// Where things are.
struct Place {
    bench: PathBuf,
    coracle: PathBuf,
    floor: PathBuf,
}

/// Compares `rounds` times.
pub(crate) fn run(rounds: usize) -> Result<()> {
    let bench = project::output("bench");
    fs::create_dir_all(&bench)?;
    process::run(Command::new("cargo").current_dir(project::root()).args([
        "build",
        "--quiet",
        "--release",
        "-p",
        "image",
        "--example",
        "floor",
    ]))?;
    let place = Place {
        coracle: project::output("dist").join("bin/coracle"),
        floor: project::output("release").join("examples/floor"),
        bench,
    };
    let registry = Registry::start(&place.bench.join("registry"))?;
    for compression in [Compression::Gzip, Compression::Zstd] {
        let layout = place.layout(compression)?;
        let plain: u64 = place.tars()?.iter().map(|tar| Ok(fs::metadata(tar)?.len())).sum::<Result<_>>()?;
        println!("\n{}: {} bytes, {plain} uncompressed", compression.name(), size_of(&layout)?);
        place.load(compression, &layout, rounds)?;
        place.pull(compression, &layout, &registry, rounds)?;
    }
    place.bytes_on_disk()?;
    place.second_image(&registry, rounds)
}

impl Place {
    /// The image as an OCI layout, made once; and beside it the same as one archive.
    fn layout(&self, compression: Compression) -> Result<PathBuf> {
        let layout = self.bench.join(format!("{NAME}-{}.oci", compression.name()));
        if !layout.exists() {
            let tars = self.tars()?;
            let layers: Vec<_> = tars.iter().map(|tar| Layer { tar, compression }).collect();
            layout::write(&layout, NAME, &layers)?;
            process::run(
                Command::new("tar").arg("-cf").arg(self.archive(compression)).arg("-C").arg(&layout).arg("."),
            )?;
        }
        Ok(layout)
    }

    /// The plain layers, made once.
    fn tars(&self) -> Result<Vec<PathBuf>> {
        let tars: Vec<_> = (0..LAYERS.len()).map(|index| self.bench.join(format!("debian-layer{index}.tar"))).collect();
        let root = self.root()?;
        for (tar, parts) in tars.iter().zip(LAYERS).filter(|(tar, _)| !tar.exists()) {
            let part = tar.with_extension("part");
            let mut command = Command::new("tar");
            process::run(command.arg("--numeric-owner").arg("-cf").arg(&part).arg("-C").arg(&root).args(*parts))?;
            fs::rename(part, tar)?;
        }
        Ok(tars)
    }

    fn archive(&self, compression: Compression) -> PathBuf {
        self.bench.join(format!("{NAME}-{}.tar", compression.name()))
    }

    /// The unpacked root, made once by mmdebstrap.
    fn root(&self) -> Result<PathBuf> {
        let root = self.bench.join("debian-root");
        if !root.exists() {
            println!("making a Debian root, once");
            let part = self.bench.join("debian-root.part");
            empty(&part)?;
            process::run(
                Command::new("mmdebstrap")
                    .args(["--quiet", "--variant=minbase", "--include=python3-full,python3-dev,gcc", "--mode=root"])
                    .arg("bookworm")
                    .arg(&part),
            )?;
            for lists in ["var/lib/apt/lists", "var/cache/apt"] {
                fs::remove_dir_all(part.join(lists))?;
            }
            fs::rename(part, &root)?;
        }
        Ok(root)
    }

    fn coracle(&self, home: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.coracle);
        command.env("CORACLE_HOME", home).args(arguments);
        command
    }

    fn podman(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("podman");
        // All of its directories: a reset is to reach nobody else's.
        for (flag, directory) in [("--root", "podman"), ("--runroot", "podman-run"), ("--tmpdir", "podman-tmp")] {
            command.arg(flag).arg(self.bench.join(directory));
        }
        command.args(["--cgroup-manager=cgroupfs", "--events-backend=none"]);
        command.args(arguments);
        command
    }

    /// Removes what podman has, with what it has mounted.
    fn empty_podman(&self) -> Result<()> {
        if self.bench.join("podman").exists() {
            process::run(&mut self.podman(&["system", "reset", "--force"]))?;
        }
        empty(&self.bench.join("podman"))
    }

    fn floor(&self, layout: &Path) -> Candidate<'_> {
        let layout = layout.to_owned();
        Candidate::new("inflate and sha256 alone", move || {
            let mut command = Command::new(&self.floor);
            command.arg(&layout);
            command
        })
    }

    fn load(&self, compression: Compression, layout: &Path, rounds: usize) -> Result<()> {
        let home = self.bench.join("home");
        let archive = self.archive(compression);
        let archive = archive.to_str().context("a path that is no UTF-8")?;
        let (bundle, copy) = (self.bench.join("bundle"), self.bench.join("copy.oci"));
        let unpack = format!(
            "skopeo copy --quiet oci-archive:{archive} oci:{}:latest && umoci unpack --image {}:latest {}",
            copy.display(),
            copy.display(),
            bundle.display()
        );
        let tree = self.root()?;
        let erofs = self.bench.join("mkfs.img");
        let mut candidates = vec![
            Candidate::new("coracle load", || self.coracle(&home, &["load", "-q", "-i", archive]))
                .prepared(|| empty(&home)),
            self.floor(layout),
            Candidate::new("podman load", || self.podman(&["load", "-q", "-i", archive]))
                .prepared(|| self.empty_podman()),
            Candidate::new("mkfs.erofs of the unpacked tree", || {
                let mut command = Command::new("mkfs.erofs");
                command.arg("--quiet").arg(&erofs).arg(&tree);
                command
            })
            .prepared(|| if erofs.exists() { Ok(fs::remove_file(&erofs)?) } else { Ok(()) }),
        ];
        // umoci of Debian 12 knows no zstd.
        if compression == Compression::Gzip {
            candidates.push(Candidate::new("skopeo copy, umoci unpack", || shell(&unpack)).prepared(|| {
                empty(&copy)?;
                fs::remove_dir(&copy)?;
                empty(&bundle)?;
                Ok(fs::remove_dir(&bundle)?)
            }));
        }
        compare(&format!("Loading {NAME}, {}", compression.name()), rounds, &mut candidates)
    }

    fn pull(&self, compression: Compression, layout: &Path, registry: &Registry, rounds: usize) -> Result<()> {
        let name = format!("{}/{NAME}:{}", registry.host(), compression.name());
        push(layout, &name)?;
        let home = self.bench.join("home");
        let mut candidates = [
            Candidate::new("coracle pull", || self.coracle(&home, &["pull", "-q", &name])).prepared(|| empty(&home)),
            self.floor(layout),
            Candidate::new("podman pull", || self.podman(&["pull", "-q", "--tls-verify=false", &name]))
                .prepared(|| self.empty_podman()),
        ];
        compare(
            &format!("Pulling {NAME}, {}, from a registry on loopback", compression.name()),
            rounds,
            &mut candidates,
        )
    }

    /// Of what the last rounds left.
    fn bytes_on_disk(&self) -> Result<()> {
        println!("\nBytes on disk after that pull\n\n| what | MiB |\n|---|---|");
        for (name, path) in [("coracle", "home"), ("podman", "podman"), ("skopeo and umoci", "bundle copy.oci")] {
            let paths = path.split(' ').map(|p| self.bench.join(p));
            let text = process::text_of(Command::new("du").args(["-csm"]).args(paths))?;
            let total = text.lines().last().and_then(|line| line.split_whitespace().next()).unwrap_or("?").to_owned();
            println!("| {name} | {total} |");
        }
        Ok(())
    }

    /// A second image that shares all but one small layer with one that is there.
    fn second_image(&self, registry: &Registry, rounds: usize) -> Result<()> {
        let first = format!("{}/{NAME}:gzip", registry.host());
        let second = format!("{}/{NAME}:second", registry.host());
        let layout = self.bench.join("second.oci");
        if !layout.exists() {
            let app = self.bench.join("app");
            empty(&app)?;
            fs::write(app.join("main.py"), "print('afloat')\n")?;
            let tar = self.bench.join("app.tar");
            process::run(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&self.bench).arg("app"))?;
            let mut tars = self.tars()?;
            tars.push(tar);
            let layers: Vec<_> = tars.iter().map(|tar| Layer { tar, compression: Compression::Gzip }).collect();
            layout::write(&layout, NAME, &layers)?;
        }
        push(&layout, &second)?;
        let home = self.bench.join("home");
        let remove = |podman: bool| -> Result<()> {
            let mut command = if podman {
                self.podman(&["rmi", "--ignore", &second])
            } else {
                self.coracle(&home, &["rmi", &second])
            };
            // The first time there is nothing to remove.
            let _ = command.output()?;
            Ok(())
        };
        empty(&home)?;
        process::run(&mut self.coracle(&home, &["pull", "-q", &first]))?;
        self.empty_podman()?;
        process::run(&mut self.podman(&["pull", "-q", "--tls-verify=false", &first]))?;
        let mut candidates = [
            Candidate::new("coracle pull", || self.coracle(&home, &["pull", "-q", &second])).prepared(|| remove(false)),
            Candidate::new("podman pull", || self.podman(&["pull", "-q", "--tls-verify=false", &second]))
                .prepared(|| remove(true)),
        ];
        compare("Pulling a second image that adds one small layer", rounds, &mut candidates)?;
        self.empty_podman()
    }
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-ec", script]);
    command
}

fn push(layout: &Path, name: &str) -> Result<()> {
    let name = format!("docker://{name}");
    process::run(
        Command::new("skopeo")
            .args(["copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("oci:{}:{NAME}:latest", layout.display()))
            .arg(name),
    )
}

fn empty(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| path.display().to_string())?;
    }
    Ok(fs::create_dir_all(path)?)
}

fn size_of(layout: &Path) -> Result<u64> {
    let blobs = fs::read_dir(layout.join("blobs/sha256"))?;
    blobs.map(|blob| Ok(blob?.metadata()?.len())).sum()
}
