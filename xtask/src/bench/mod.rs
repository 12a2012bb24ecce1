//! `cargo xtask bench`: the figures of the README, as ratios of commands timed in turn in one run.

mod debian;
mod files;
mod image;
mod layout;
mod paired;
mod registry;
mod start;

use anyhow::Result;
use clap::Subcommand;

use crate::{build, setup};

/// Measure, and print the tables that the README quotes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    bench: Bench,
    /// Measured rounds of every command.
    #[arg(long, default_value_t = 7, global = true)]
    rounds: usize,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Start to exit of /bin/true, boot time, and memory of the machine process.
    Start {
        /// Already inside the lab.
        #[arg(long, hide = true)]
        inside: bool,
    },
    /// `git status` and `cargo build` on a bind mount, on the scratch disk, and without a container.
    Files {
        /// Already inside the lab.
        #[arg(long, hide = true)]
        inside: bool,
    },
    /// Conversion of a 500 MiB layer; loading and pulling of a Debian image, next to those who unpack.
    Image,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match arguments.bench {
        Bench::Start { inside: true } => return start::inside(arguments.rounds),
        Bench::Files { inside: true } => return files::inside(arguments.rounds),
        _ => {}
    }
    setup::ensure()?;
    build::provide("release")?;
    match arguments.bench {
        Bench::Start { .. } => start::run(arguments.rounds),
        Bench::Files { .. } => files::run(arguments.rounds),
        Bench::Image => {
            image::run(arguments.rounds)?;
            debian::run(arguments.rounds)
        }
    }
}
