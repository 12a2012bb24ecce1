//! `bench files`: work on a tree of files that is the host's (bind mount, virtio-fs), the container's own (scratch disk), or
//! nobody's but the host's (no container). In the lab, where KVM is real; the host's files lie in its memory.
//!
//! The programs are the host's in every case, in the container as read-only bind mounts, and the container runs already: what
//! differs is where the tree lies.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};

use super::paired::{Candidate, compare};
use crate::lab::Machine;
use crate::{process, project};

/// Files of the repository, in directories of a hundred.
const FILES: usize = 5_000;

/// Modules of the crate.
const MODULES: usize = 40;

/// Boots the lab and measures in it.
pub(crate) fn run(rounds: usize) -> Result<()> {
    let arguments = ["bench", "files", "--inside", "--rounds", &rounds.to_string()].map(OsString::from);
    let command: Vec<OsString> = std::iter::once(std::env::current_exe()?.into()).chain(arguments).collect();
    fs::create_dir_all(project::output("bench"))?;
    let mut lab = Machine::for_tests(&project::output("bench/lab-console.log")).boot(&command, &[])?;
    let (mut out, mut err) = lab.outputs();
    let errors = thread::spawn(move || io::copy(&mut err, &mut io::stderr()));
    io::copy(&mut out, &mut io::stdout())?;
    let status = lab.wait()?;
    let _ = errors.join();
    ensure!(status == 0, "the part in the lab failed with {status}");
    Ok(())
}

/// The part in the lab.
pub(crate) fn inside(rounds: usize) -> Result<()> {
    let work = Path::new("/tmp/bench");
    let tree = work.join("tree");
    fs::create_dir_all(work)?;
    process::run(Command::new("cp").arg("-a").arg(project::output("dist")).arg(work.join("dist")))?;
    let rust = toolchain()?;
    repository(&tree.join("repository"))?;
    package(&tree.join("package"))?;
    let (coracle, home) = (work.join("dist/bin/coracle"), work.join("home"));
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&coracle);
        command.env("CORACLE_HOME", &home).env("CORACLE_ACCEL", "kvm").args(arguments);
        command
    };
    process::run(run(&["load", "-i"]).arg(project::output("fixtures").join("busybox")))?;
    let shares = [format!("{}:/rust:ro", rust.display()), format!("{}:/bound", tree.display())];
    let system = ["/usr:/usr:ro", "/lib:/lib:ro", "/lib64:/lib64:ro"];
    let mounts = system.into_iter().chain(shares.iter().map(String::as_str)).flat_map(|mount| ["-v", mount]);
    let flags: Vec<&str> = ["run", "-d", "--name", "it", "-m", "2g"].into_iter().chain(mounts).collect();
    process::run(&mut run(&[&flags[..], &["busybox", "sleep", "86400"]].concat()))?;
    process::run(&mut run(&["exec", "it", "cp", "-a", "/bound", "/own"]))?;

    let in_container = |directory: &str, words: &[&str]| {
        let mut all = vec!["exec", "-e", "HOME=/tmp", "-e", "PATH=/rust/bin:/usr/bin:/bin", "-w", directory, "it"];
        all.extend(words);
        run(&all)
    };
    let outside = |directory: &str, words: &[&str]| {
        let mut command = Command::new("env");
        command.arg("HOME=/tmp").arg(format!("PATH={}/bin:/usr/bin:/bin", rust.display()));
        command.args(words).current_dir(tree.join(directory));
        command
    };
    let status = ["git", "-c", "safe.directory=*", "status", "--porcelain"];
    let mut candidates = [
        Candidate::new("scratch disk", || in_container("/own/repository", &status)),
        Candidate::new("bind mount", || in_container("/bound/repository", &status)),
        Candidate::new("exec of nothing", || in_container("/", &["true"])),
        Candidate::new("no container", || outside("repository", &status)),
    ];
    compare(&format!("In the lab, git status of {FILES} files"), rounds, &mut candidates)?;
    let build = ["cargo", "build", "--offline", "--quiet"];
    let clean = |directory: &'static str| {
        let mut command = in_container(directory, &["rm", "-rf", "target"]);
        move || process::run(&mut command)
    };
    let mut candidates = [
        Candidate::new("scratch disk", || in_container("/own/package", &build)).prepared(clean("/own/package")),
        Candidate::new("bind mount", || in_container("/bound/package", &build)).prepared(clean("/bound/package")),
        Candidate::new("no container", || outside("package", &build)).prepared(clean("/bound/package")),
    ];
    compare(&format!("In the lab, cargo build of a crate of {MODULES} modules"), rounds, &mut candidates)?;
    process::run(&mut run(&["rm", "-f", "it"]))
}

/// The directory of the toolchain that built this program.
fn toolchain() -> Result<PathBuf> {
    let sysroot = process::text_of(Command::new("rustc").args(["--print", "sysroot"]))?;
    Ok(sysroot.trim().into())
}

fn repository(directory: &Path) -> Result<()> {
    for number in 0..FILES {
        let place = directory.join(format!("{:03}", number / 100));
        fs::create_dir_all(&place)?;
        fs::write(place.join(format!("{number:05}.txt")), format!("file {number}\n").repeat(1 + number % 50))?;
    }
    let git = |words: &[&str]| {
        let name = ["-c", "user.name=bench", "-c", "user.email=bench@example"];
        process::run(Command::new("git").args(name).args(words).current_dir(directory))
    };
    git(&["init", "--quiet"])?;
    git(&["add", "."])?;
    git(&["commit", "--quiet", "-m", "files"])
}

fn package(directory: &Path) -> Result<()> {
    let source = directory.join("src");
    fs::create_dir_all(&source)?;
    fs::write(
        directory.join("Cargo.toml"),
        "[package]\nname = \"package\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
    )?;
    let mut main = String::new();
    let mut calls = String::new();
    for number in 0..MODULES {
        main.push_str(&format!("mod m{number};\n"));
        calls.push_str(&format!("    sum += m{number}::count(&words);\n"));
        let module = format!(
            "use std::collections::BTreeMap;\n\npub fn count(words: &[String]) -> usize {{\n    let mut seen = \
             BTreeMap::new();\n    for word in words {{\n        *seen.entry(word.len() + {number}).or_insert(0) += 1;\n    \
             }}\n    seen.values().sum()\n}}\n"
        );
        fs::write(source.join(format!("m{number}.rs")), module)?;
    }
    main.push_str(&format!(
        "\nfn main() {{\n    let words: Vec<String> = std::env::args().collect();\n    let mut sum = 0;\n{calls}    \
         println!(\"{{sum}}\");\n}}\n"
    ));
    fs::write(source.join("main.rs"), main).context("the crate's root")
}
