//! Images for tests, made with Debian's tools: busybox-static, mmdebstrap, umoci, skopeo.
//!
//! They are built natively before the tests run, because the lab is slow, and are found by name afterwards.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace;

/// Where fixtures are: `$CORACLE_FIXTURES`, or `target/fixtures`.
#[must_use]
pub fn directory() -> PathBuf {
    std::env::var_os("CORACLE_FIXTURES").map_or_else(|| workspace().join("target/fixtures"), PathBuf::from)
}

/// An OCI layout with one image, `busybox:latest`: static busybox with its applets, `/etc/passwd` with `alice`
/// (1000, group `crew` 1000, also in `oars` 2000), and [`in-guest`](../../in_guest/index.html) as `/bin/in-guest`.
#[must_use]
pub fn busybox() -> PathBuf {
    directory().join("busybox")
}

/// An OCI layout with one image, `debian:layers`: Debian with Python in twelve layers that replace, delete,
/// and hide what lower ones hold.
#[must_use]
pub fn debian() -> PathBuf {
    directory().join("debian")
}

/// Builds what is missing.
///
/// # Errors
///
/// A tool that is missing or failed, named.
pub fn build_all() -> Result<()> {
    fs::create_dir_all(directory())?;
    build("busybox", &busybox(), build_busybox)?;
    build("debian", &debian(), build_debian)
}

/// Builds into a directory beside `path` and renames it: a fixture is whole or absent.
fn build(name: &str, path: &Path, make: fn(&Path) -> Result<()>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    println!("fixture {name}: building {}", path.display());
    let part = path.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    fs::create_dir_all(&part)?;
    make(&part).with_context(|| format!("fixture {name}"))?;
    fs::rename(part.join("layout"), path)?;
    fs::remove_dir_all(&part)?;
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("{shown}: `cargo xtask setup` installs what tests need"))?;
    ensure!(output.status.success(), "{shown}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn build_busybox(directory: &Path) -> Result<()> {
    let image = Umoci::new(directory, "latest", "busybox:latest")?;
    let root = image.root();
    for name in ["bin", "dev", "etc", "home/alice", "proc", "root", "sys", "tmp", "usr/bin", "var"] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("/bin/busybox of Debian's busybox-static")?;
    let applets = Command::new("/bin/busybox").arg("--list").output()?;
    for applet in String::from_utf8(applets.stdout)?.lines().filter(|a| *a != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::copy(in_guest()?, root.join("bin/in-guest"))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\ncrew:x:1000:\noars:x:2000:alice\n")?;
    fs::write(root.join("etc/not-executable"), "no program\n")?;
    image.commit()?;
    image.configure(&["--config.cmd=sh", "--config.env=PATH=/bin:/usr/bin", "--config.env=BOAT=coracle"])?;
    image.finish()
}

/// Builds the static helper that runs inside test containers.
fn in_guest() -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let target = workspace().join("target/in-guest");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).env("CARGO_TARGET_DIR", &target);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.args(["build", "--quiet", "--release", "--package", "e2e", "--bin", "in-guest", "--target", TARGET]);
    run(&mut cargo)?;
    Ok(target.join(TARGET).join("release/in-guest"))
}

/// The Debian root: minbase with Python, made once per machine and kept in the user's cache.
fn debian_root() -> Result<PathBuf> {
    let cache = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) => PathBuf::from(cache),
        (None, Some(home)) => Path::new(&home).join(".cache"),
        (None, None) => bail!("neither XDG_CACHE_HOME nor HOME is set"),
    };
    let tar = cache.join("coracle/fixtures/debian-bookworm-python.tar");
    if !tar.exists() {
        fs::create_dir_all(tar.parent().context("a parent")?)?;
        let part = tar.with_extension("part.tar");
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(["--variant=minbase", "--include=python3-minimal", "--mode=root", "bookworm"]).arg(&part);
        run(&mut mmdebstrap)?;
        fs::rename(part, &tar)?;
    }
    Ok(tar)
}

fn build_debian(directory: &Path) -> Result<()> {
    let image = Umoci::new(directory, "layers", "debian:layers")?;
    run(Command::new("tar").arg("--numeric-owner").arg("-xpf").arg(debian_root()?).arg("-C").arg(image.root()))?;
    image.commit()?;
    for script in DEBIAN_LAYERS {
        run(Command::new("sh").args(["-eu", "-c", script]).current_dir(image.root()))?;
        image.commit()?;
    }
    image.configure(&["--config.cmd=bash", "--config.env=PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"])?;
    image.finish()
}

/// The eleven layers above the base, as shell scripts run in the root: what layers do to one another.
const DEBIAN_LAYERS: &[&str] = &[
    "mkdir -p opt/boat; echo one > opt/boat/a; echo two > opt/boat/b; ln opt/boat/a opt/boat/hard",
    "rm opt/boat/b; echo three > opt/boat/c",
    "rm -r usr/share/doc; mkdir usr/share/doc; echo only > usr/share/doc/only",
    "rm -r opt/boat; mkdir opt/boat; echo fresh > opt/boat/d",
    "cp usr/bin/id usr/local/bin/id-setuid; chmod 4755 usr/local/bin/id-setuid; chown 1234:5678 opt/boat/d",
    "rm -r usr/share/man; echo file > usr/share/man",
    "rm usr/share/man; ln -s /opt/boat usr/share/man",
    "cp usr/bin/id usr/local/bin/id-capable; setcap cap_net_raw+ep usr/local/bin/id-capable; \
     setfattr -n user.boat -v oak opt/boat/d",
    "mkfifo opt/fifo; mknod opt/null c 1 3; touch -d '2001-02-03 04:05:06.789' opt/boat/dated",
    "ln -s ../opt/boat srv/boat; echo through > srv/through; rm -r var/cache/apt",
    "useradd --no-create-home --uid 4242 --root \"$PWD\" rower || echo 'rower:x:4242:4242::/:/bin/sh' >> etc/passwd; \
     rm -f opt/boat/dated; printf back > opt/boat/b",
];

/// An image that umoci builds: a layout, and a bundle unpacked from it.
struct Umoci {
    layout: PathBuf,
    bundle: PathBuf,
    tag: &'static str,
    name: &'static str,
}

impl Umoci {
    fn new(directory: &Path, tag: &'static str, name: &'static str) -> Result<Self> {
        let image = Self { layout: directory.join("layout"), bundle: directory.join("bundle"), tag, name };
        run(Command::new("umoci").arg("init").arg("--layout").arg(&image.layout))?;
        run(Command::new("umoci").arg("new").arg("--image").arg(image.reference()))?;
        run(Command::new("umoci").arg("unpack").arg("--image").arg(image.reference()).arg(&image.bundle))?;
        Ok(image)
    }

    fn reference(&self) -> String {
        format!("{}:{}", self.layout.display(), self.tag)
    }

    fn root(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    /// What changed in the bundle since the last commit becomes a layer.
    fn commit(&self) -> Result<()> {
        let mut repack = Command::new("umoci");
        run(repack.args(["repack", "--refresh-bundle", "--image"]).arg(self.reference()).arg(&self.bundle))
    }

    fn configure(&self, options: &[&str]) -> Result<()> {
        run(Command::new("umoci").args(["config", "--image"]).arg(self.reference()).args(options))
    }

    /// Gives the image its name, which umoci takes for a bare tag, and drops what it left behind.
    fn finish(&self) -> Result<()> {
        run(Command::new("umoci").args(["gc", "--layout"]).arg(&self.layout))?;
        let path = self.layout.join("index.json");
        let index = fs::read_to_string(&path)?;
        let quoted = |name: &str| format!("\"org.opencontainers.image.ref.name\":\"{name}\"");
        let renamed = index.replace(&quoted(self.tag), &quoted(self.name));
        ensure!(renamed != index, "{} has no image named {}", path.display(), self.tag);
        fs::write(&path, renamed)?;
        Ok(())
    }
}
