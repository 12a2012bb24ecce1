//! `cargo xtask fuzz`: libFuzzer on the stable toolchain, without further tools.
//!
//! What `cargo fuzz` adds to `cargo build` is a handful of compiler flags that make code count which edges it takes.
//! The stable compiler has them too, so this passes them and runs the binaries. The package is `fuzz/`, a workspace
//! of its own because of these flags; a target is a file in `fuzz/fuzz_targets/`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{process, project};

/// Fuzzes the parsers of untrusted bytes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this target.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Edge coverage with counters and comparisons, the tables that libFuzzer wants; arithmetic and assertions checked.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1 \
    -Cdebug-assertions=yes -Coverflow-checks=yes";

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let targets = targets()?;
    if let Some(wanted) = &arguments.target {
        ensure!(targets.contains(wanted), "no fuzz target `{wanted}`; there are: {}", targets.join(", "));
        return fuzz(wanted, arguments.seconds);
    }
    targets.iter().try_for_each(|target| fuzz(target, arguments.seconds))
}

/// The names of all targets.
pub(crate) fn targets() -> Result<Vec<String>> {
    let directory = project::root().join("fuzz/fuzz_targets");
    let files = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let names = files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    let sources = names.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let mut targets: Vec<String> = sources.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    targets.sort();
    Ok(targets)
}

/// Builds one target and runs it from the corpus that earlier runs grew; what makes it fail is kept.
pub(crate) fn fuzz(target: &str, seconds: u32) -> Result<()> {
    let binary = build(target)?;
    let corpus = project::output("fuzz").join("corpus").join(target);
    let failures = project::output("fuzz").join("failures").join(target);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&failures)?;
    let mut fuzzer = Command::new(binary);
    fuzzer
        .arg(&corpus)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", failures.display()));
    fuzzer.args(["-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1", "-verbosity=0"]);
    let seeds = project::root().join("fuzz/seeds").join(target);
    if seeds.is_dir() {
        fuzzer.arg(seeds);
    }
    println!("fuzzing {target} for {seconds} s");
    process::run(fuzzer.current_dir(project::root())).with_context(|| format!("inputs are in {}", failures.display()))
}

fn build(target: &str) -> Result<PathBuf> {
    let mut cargo = project::cargo();
    cargo.args(["build", "--quiet", "--release", "--manifest-path", "fuzz/Cargo.toml", "--bin", target]);
    cargo.args(["--target", project::TARGET]).env("RUSTFLAGS", FLAGS);
    let objects = project::output("fuzz").join("build");
    process::run(cargo.env("CARGO_TARGET_DIR", &objects))?;
    Ok(objects.join(project::TARGET).join("release").join(target))
}
