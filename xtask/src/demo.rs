//! `cargo xtask demo`: from a fresh clone to a container, in one command.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{build, process, project, publish, setup};

/// Sets up, builds, makes a busybox image and runs a container from it.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {}

/// Runs the command.
pub(crate) fn run(_: &Arguments) -> Result<()> {
    setup::ensure()?;
    let coracle = build::provide("release")?.join("bin/coracle");
    let image = image()?;
    show_and_run(Command::new(&coracle).arg("load").arg("-i").arg(&image))?;
    let greeting = "hello from a microVM of its own";
    show_and_run(Command::new(&coracle).args(["run", "--rm", "busybox", "echo", greeting]))
}

fn show_and_run(command: &mut Command) -> Result<()> {
    let words = command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>();
    println!("$ coracle {}", words.join(" "));
    process::run(command)
}

/// An OCI layout with one image, `busybox:latest`: one layer with the static busybox and a link for each applet.
fn image() -> Result<PathBuf> {
    let image = project::output("demo").join("busybox.oci");
    if image.join("index.json").exists() {
        return Ok(image);
    }
    let layer = layer(&project::output("demo/root"))?;
    let diff_id = blob(&image, &layer)?;
    let config = blob(
        &image,
        &serde_json::to_vec(&json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id["digest"]]},
        }))?,
    )?;
    let manifest = blob(
        &image,
        &serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [described(diff_id, "application/vnd.oci.image.layer.v1.tar")],
        }))?,
    )?;
    let mut manifest = described(manifest, "application/vnd.oci.image.manifest.v1+json");
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "busybox:latest"});
    publish::bytes(&image.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    publish::bytes(&image.join("index.json"), &serde_json::to_vec(&index)?)?;
    Ok(image)
}

/// Writes a blob; gives back its digest and size.
fn blob(image: &Path, bytes: &[u8]) -> Result<Value> {
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    publish::bytes(&image.join("blobs/sha256").join(&digest), bytes)?;
    Ok(json!({"digest": format!("sha256:{digest}"), "size": bytes.len()}))
}

fn described(mut descriptor: Value, media_type: &str) -> Value {
    descriptor["mediaType"] = media_type.into();
    descriptor
}

/// A tar archive of a root file system that is built in `root`.
fn layer(root: &Path) -> Result<Vec<u8>> {
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    for directory in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "var"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let busybox = root.join("bin/busybox");
    fs::copy("/bin/busybox", &busybox).context("cannot copy /bin/busybox")?;
    for applet in process::text_of(Command::new(&busybox).arg("--list"))?.lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--numeric-owner", "--owner=0", "--group=0", "--mtime=@0", "--format=ustar"]);
    let output = tar.arg("--directory").arg(root).arg(".").output().context("cannot start `tar`")?;
    anyhow::ensure!(output.status.success(), "`tar` failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
