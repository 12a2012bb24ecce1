//! `cargo xtask test`: every test there is, and one line at the end.
//!
//! 1. `--unit`: `cargo test` of the workspace; needs nothing from the host.
//! 2. `--fuzz`: every fuzz target for a while.
//! 3. `--images`: the end-to-end tests of images, which need no machine.
//! 4. `--emulated`: the end-to-end tests on software emulation.
//! 5. `--kvm`: the same test binary inside the lab, on KVM; what a lab that breaks down leaves open, and a few failures,
//!    are run once more in another, as the lab is an emulator.
//!
//! Without any of these flags, all five. The last line is `N passed, N failed`.

mod course;

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::{self, Machine};
use crate::libtest::{Outcome, Tally, listed_test};
use crate::{build, fuzz, process, project, setup};
use course::Course;

/// Runs the tests: unit, fuzz, end-to-end of images, end-to-end on emulation, end-to-end on KVM in the lab.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only unit tests, and others of this list that are named too.
    #[arg(long)]
    unit: bool,
    /// Only the fuzz targets.
    #[arg(long)]
    fuzz: bool,
    /// Only the end-to-end tests of images.
    #[arg(long)]
    images: bool,
    /// Only the end-to-end tests on emulation.
    #[arg(long)]
    emulated: bool,
    /// Only the end-to-end tests on KVM, in the lab.
    #[arg(long)]
    kvm: bool,
    /// How long each fuzz target runs.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    fuzz_seconds: u32,
    /// Only tests whose name contains one of these; leaves fuzzing out.
    filters: Vec<OsString>,
}

/// A part of the whole, with its name on the way.
type Stage = (&'static str, fn(&Arguments) -> Result<Tally>);

const STAGES: [Stage; 5] = [
    ("unit tests", unit),
    ("fuzz targets", fuzz_targets),
    ("end to end, images", images),
    ("end to end, emulated", emulated),
    ("end to end, KVM in the lab", kvm),
];

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure()?;
    let total: Tally = arguments.chosen().map(|stage| run_stage(stage, arguments)).sum();
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Arguments {
    fn chosen(&self) -> impl Iterator<Item = &'static Stage> + use<> {
        let mut flags = [self.unit, self.fuzz, self.images, self.emulated, self.kvm];
        if !flags.contains(&true) {
            flags = [true, self.filters.is_empty(), true, true, true];
        }
        STAGES.iter().zip(flags).filter_map(|(stage, chosen)| chosen.then_some(stage))
    }
}

/// A stage that cannot run is a failure among others, so that the rest is still told.
fn run_stage((name, stage): &Stage, arguments: &Arguments) -> Tally {
    println!("== {name}");
    stage(arguments).unwrap_or_else(|error| {
        println!("{name}: {error:#}");
        Tally::FAILURE
    })
}

fn unit(arguments: &Arguments) -> Result<Tally> {
    let mut cargo = project::cargo();
    cargo.args(["test", "--quiet", "--workspace", "--no-fail-fast", "--"]).args(&arguments.filters);
    tally(&mut cargo)
}

fn fuzz_targets(arguments: &Arguments) -> Result<Tally> {
    let targets = fuzz::targets()?;
    Ok(targets.iter().map(|target| fuzz_target(target, arguments.fuzz_seconds)).sum())
}

fn fuzz_target(target: &str, seconds: u32) -> Tally {
    match fuzz::fuzz(target, seconds) {
        Ok(()) => Tally::SUCCESS,
        Err(error) => {
            println!("fuzz target {target}: {error:#}");
            Tally::FAILURE
        }
    }
}

fn images(arguments: &Arguments) -> Result<Tally> {
    let test = end_to_end("images")?;
    tally(Command::new(test).args(&arguments.filters).current_dir(project::root()))
}

fn emulated(arguments: &Arguments) -> Result<Tally> {
    let test = end_to_end("e2e")?;
    tally(
        Command::new(test).args(&arguments.filters).env("CORACLE_TEST_ACCEL", "emulated").current_dir(project::root()),
    )
}

/// Runs the tests in the lab, and what is open after that in another one: see [`course`].
fn kvm(arguments: &Arguments) -> Result<Tally> {
    let test = end_to_end("e2e")?;
    let mut list = Command::new(&test);
    let listed = process::text_of(list.args(["--list", "--format", "terse"]).args(&arguments.filters))?;
    let mut course = Course::new(listed.lines().filter_map(listed_test));
    while let Some(names) = course.next_lab() {
        if course.is_again() {
            println!("once more, as the lab's emulator may be at fault: {}", names.join(", "));
        }
        let mut command = vec![test.clone(), "--exact".into()];
        command.extend(names.into_iter().map(OsString::from));
        course.take(&in_a_lab(&command)?);
    }
    course.failures().iter().for_each(|name| println!("failed in the lab: {name}"));
    Ok(course.tally())
}

/// Runs the tests in one lab. The last words of one that broke down are shown.
fn in_a_lab(command: &[OsString]) -> Result<Results> {
    let console = project::output("lab-console.log");
    let mut lab = Machine::for_tests(&console).boot(command, &[("CORACLE_TEST_ACCEL", "kvm")])?;
    let (out, mut err) = lab.outputs();
    let errors = thread::spawn(move || io::copy(&mut err, &mut io::stderr()));
    let results = read_results(out, &mut io::stdout())?;
    let status = lab.wait()?;
    let _ = errors.join();
    if status == lab::NO_STATUS {
        let words = fs::read(&console).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        let lines: Vec<&str> = words.lines().collect();
        println!("the lab itself broke down; its last words:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
    }
    Ok(results)
}

/// Everything that the end-to-end tests run and read; gives back the binary of those called `name`.
fn end_to_end(name: &str) -> Result<OsString> {
    build::provide("release")?;
    process::run(project::cargo().args(["run", "--quiet", "--package", "e2e", "--bin", "fixtures"]))?;
    let mut cargo = project::cargo();
    cargo.args(["test", "--quiet", "--package", "e2e", "--release", "--test", name, "--no-run"]);
    let messages = process::text_of(cargo.arg("--message-format=json"))?;
    executable(&messages, name).with_context(|| format!("cargo built no test called {name}"))
}

/// The test binary that cargo's messages speak of.
fn executable(messages: &str, name: &str) -> Option<OsString> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut executables =
        messages.filter(|message| message["target"]["name"] == name && message["profile"]["test"] == true);
    executables.find_map(|message| message["executable"].as_str().map(Into::into))
}

/// Runs a program that prints test results, and shows them as they come.
fn tally(command: &mut Command) -> Result<Tally> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start the tests")?;
    let out = child.stdout.take().context("standard output is a pipe")?;
    let results = read_results(out, &mut io::stdout())?;
    Ok(results.tally.of_program(child.wait()?.success()))
}

/// What a test program said.
#[derive(Debug, Default)]
struct Results {
    tally: Tally,
    /// Names of the tests that passed.
    passed: Vec<String>,
    /// Names of the tests that failed.
    failed: Vec<String>,
}

/// Adds up the results in a program's output while passing it on.
fn read_results(output: impl Read, shown: &mut impl Write) -> Result<Results> {
    let mut results = Results::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let text = String::from_utf8_lossy(&line);
        let of_line = Tally::of_line(&text);
        results.tally += of_line.unwrap_or_default();
        match Outcome::of_line(&text) {
            Some(Outcome::Passed(name)) => results.passed.push(name.to_owned()),
            Some(Outcome::Failed(name)) => results.failed.push(name.to_owned()),
            None => {}
        }
        if is_worth_showing(&line, of_line) {
            shown.write_all(&line)?;
            shown.write_all(b"\n")?;
        }
    }
    shown.flush()?;
    Ok(results)
}

/// Test binaries without any test say so at length.
fn is_worth_showing(line: &[u8], tally: Option<Tally>) -> bool {
    !line.is_empty() && line != b"running 0 tests" && tally != Some(Tally::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_binary_is_found_among_the_messages() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"name":"e2e"},"profile":{"test":false},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"e2e"},"profile":{"test":true},"executable":"/t/e2e-1"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "e2e"), Some("/t/e2e-1".into()));
        assert_eq!(executable(messages, "images"), None);
        assert_eq!(executable("not json", "e2e"), None);
    }

    #[test]
    fn results_are_summed_and_empty_ones_not_shown() {
        let output = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored\n\nrunning 0 tests\n\
                      test result: ok. 0 passed; 0 failed; 0 ignored\ntest a::b ... FAILED\ntest a::c ... ok\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n";
        let mut shown = Vec::new();
        let results = read_results(output.as_bytes(), &mut shown).expect("read");
        assert_eq!(results.tally, Tally { passed: 2, failed: 1 });
        assert_eq!((results.failed, results.passed), (vec!["a::b".to_owned()], vec!["a::c".to_owned()]));
        assert_eq!(String::from_utf8(shown).expect("text").lines().count(), 5);
    }
}
