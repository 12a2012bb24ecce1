//! What is said of a command line that is none, or that asks for help.

use std::{env, ffi::OsString, process::exit};

use clap::error::{ContextKind, ErrorKind};

use crate::{command_line::CommandLine, output::report};

/// Prints help or a complaint and exits: Docker's code for a container that could not be run, clap's for the rest.
pub(crate) fn exit_with(mut error: clap::Error) -> ! {
    if matches!(error.kind(), ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand) {
        // A command that needs another one says which there are, when that is all it was asked.
        let words = env::args_os().chain(["--help".into()]);
        error = CommandLine::parse_from(words).err().unwrap_or(error);
    }
    let is_run = is_run(env::args_os().skip(1));
    if is_run {
        correct_tip(&mut error);
    }
    let printed = error.print();
    exit(match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion if printed.is_ok() => 0,
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => i32::from(report::FAILED),
        _ if is_run => i32::from(report::NOT_RUN),
        _ => error.exit_code(),
    })
}

/// clap's tip to write `-- -x` makes `-x` the image.
fn correct_tip(error: &mut clap::Error) {
    error.remove(ContextKind::Suggested);
}

/// Whether the first words that are neither global flags nor their values are `run` or `container run`.
fn is_run(mut words: impl Iterator<Item = OsString>) -> bool {
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--home" | "--accel") => drop(words.next()),
            Some(flag) if flag.starts_with('-') => {}
            Some("container") => {}
            _ => return word == "run",
        }
    }
    false
}
