//! The process: its streams, environment, user, and how it is asked to end.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use engine::{
    environment::{self, EnvironmentError},
    request,
    signals::{self, InvalidSignal},
};

#[derive(Debug, Args)]
#[command(next_help_heading = "Process")]
pub(crate) struct ProcessFlags {
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set a variable; a bare NAME takes the value that it has here
    #[arg(short, long, value_name = "NAME[=VALUE]", allow_hyphen_values = true, value_parser = environment_entry)]
    pub(crate) env: Vec<String>,
    /// Set the variables in a file, one a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR", value_parser = working_dir, value_hint = ValueHint::Other)]
    pub(crate) workdir: Option<String>,
    /// User and group, names or numbers, looked up in the image
    #[arg(short, long, value_name = "USER[:GROUP]", value_hint = ValueHint::Other)]
    pub(crate) user: Option<String>,
    /// One more group
    #[arg(long, value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,
    /// Program to run instead of the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM", value_hint = ValueHint::Other)]
    pub(crate) entrypoint: Option<String>,
    /// Run a small init as PID 1 that reaps and forwards signals
    #[arg(long)]
    pub(crate) init: bool,
    /// Signal that asks it to end, instead of the image's
    #[arg(long, value_name = "SIGNAL", value_parser = signal_word)]
    pub(crate) stop_signal: Option<String>,
    /// Seconds that it may take then, before it is killed; -1 for no limit
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub(crate) stop_timeout: Option<i64>,
}

fn working_dir(text: &str) -> Result<String, request::OptionError> {
    if text.is_empty() { Ok(String::new()) } else { request::parse_working_dir(text) }
}

fn signal_word(text: &str) -> Result<String, InvalidSignal> {
    signals::parse(text).map(|_| text.to_owned())
}

/// A variable, as it is here where it has no value.
pub(crate) fn environment_entry(text: &str) -> Result<String, EnvironmentError> {
    environment::parse_entry(text, |name| std::env::var(name).ok())
}
