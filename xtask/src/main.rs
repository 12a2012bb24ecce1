//! `cargo xtask`: everything around the code that cargo alone does not do.
//!
//! One file for each command: [`setup`], [`kernel`], [`build`], [`lab`], [`demo`], [`test`], [`fuzz`], [`bench`]. What they
//! share: [`project`] knows where things are, [`process`] runs programs, [`publish`] makes files appear whole or
//! not at all, [`cpio`] and [`initrd`] write initial RAM disks, [`libtest`] reads what test binaries print.
//!
//! Every command starts by making sure of what it needs, so any of them works first in a fresh clone; what is
//! already there costs nothing.

mod bench;
mod build;
mod cpio;
mod demo;
mod file_daemon;
mod fuzz;
mod initrd;
mod kernel;
mod lab;
mod libtest;
mod process;
mod project;
mod publish;
mod setup;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, boots and tests Coracle.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Setup(setup::Arguments),
    Kernel(kernel::Arguments),
    Build(build::Arguments),
    Lab(lab::Arguments),
    Demo(demo::Arguments),
    Test(test::Arguments),
    Fuzz(fuzz::Arguments),
    Bench(bench::Arguments),
}

fn run(task: &Task) -> Result<ExitCode> {
    match task {
        Task::Setup(arguments) => setup::run(arguments),
        Task::Kernel(arguments) => kernel::run(arguments),
        Task::Build(arguments) => build::run(arguments),
        Task::Lab(arguments) => return lab::run(arguments),
        Task::Demo(arguments) => demo::run(arguments),
        Task::Test(arguments) => return test::run(arguments),
        Task::Fuzz(arguments) => fuzz::run(arguments),
        Task::Bench(arguments) => bench::run(arguments),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    match run(&Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  caused by: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}
