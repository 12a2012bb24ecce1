//! `coracle`: the command line. Flags become a request to the engine; what comes back becomes text, streams and an
//! exit code. Nothing is decided here that another front end would have to decide too.
//!
//! - [`command_line`] is the whole of it as clap knows it, [`usage`] says what is wrong with one.
//! - [`containers`], [`images`], [`volumes`], [`registry`] and [`system`] are the commands, a folder for each kind of
//!   thing, a file for each verb.
//! - [`filters`] confine what they list and remove; [`moments`] are times as people write them.
//! - [`output`] writes their lists, objects, progress and errors; [`terminal`] keeps the user's terminal whole, and
//!   asks.
//!
//! The same program is a container's keeper when its first argument says so, and what shuts a file daemon in; that way
//! round the flags are never looked at, for a keeper is to stay small.

mod command_line;
mod containers;
mod filters;
mod images;
mod moments;
mod output;
mod registry;
mod system;
mod terminal;
mod usage;
mod volumes;

use std::{env, process::ExitCode};

use engine::{AcceleratorChoice, Engine, Environment, Home, Installation, Settings};

use crate::{
    command_line::{Command, CommandLine, GlobalFlags},
    output::report,
};

fn main() -> ExitCode {
    let begun = engine::timings::now();
    match env::args_os().nth(1) {
        Some(word) if word == engine::keeper::SUBCOMMAND => return engine::keeper::main(),
        Some(word) if word == engine::file_daemon::SUBCOMMAND => return engine::file_daemon::main(),
        _ => {}
    }
    let command_line = CommandLine::parse_from(env::args_os()).unwrap_or_else(|error| usage::exit_with(error));
    let CommandLine { global, command } = command_line;
    let failed = if runs(&command) { report::NOT_RUN } else { report::FAILED };
    match act(&Invocation { global, begun }, command) {
        Ok(code) => ExitCode::from(code),
        // Whoever read our output has seen enough.
        Err(error) if report::is_broken_pipe(&error) => ExitCode::from(report::BROKEN_PIPE),
        Err(error) => {
            report::print(&error);
            ExitCode::from(failed)
        }
    }
}

/// Does what the command says; the result is the exit code.
fn act(invocation: &Invocation, command: Command) -> anyhow::Result<u8> {
    match command {
        Command::ContainerVerb(verb) => return containers::verb(invocation, verb),
        Command::Ps(flags) => containers::list::list(&invocation.open()?, &flags)?,
        Command::Container(command) => return containers::command(invocation, command),
        Command::ImageVerb(verb) => images::verb(invocation, &verb)?,
        Command::Images(flags) => images::list::list(&invocation.open()?, &flags)?,
        Command::Rmi(flags) => return images::names::remove(&invocation.open()?, &flags),
        Command::Image(command) => return images::command(invocation, &command),
        Command::Inspect(flags) => return containers::inspect::inspect(&invocation.open()?, &flags),
        Command::Login(flags) => registry::login::login(&invocation.open()?, &flags)?,
        Command::Logout(flags) => registry::login::logout(&flags)?,
        Command::Volume(command) => return volumes::command(invocation, &command),
        Command::Events(flags) => system::events::events(&invocation.open()?, &flags)?,
        Command::System(command) => return system::command(invocation, &command),
        Command::Doctor(flags) => return system::doctor::doctor(&invocation.place()?, &flags),
        Command::Completion(flags) => system::generate::completion(&flags)?,
        Command::Man(flags) => system::generate::man(&flags)?,
        Command::Version => system::version()?,
    }
    Ok(0)
}

/// Whether a failure means that a container could not be run.
fn runs(command: &Command) -> bool {
    use containers::{ContainerCommand, ContainerVerb};
    let (Command::ContainerVerb(verb) | Command::Container(ContainerCommand::Verb(verb))) = command else {
        return false;
    };
    matches!(verb, ContainerVerb::Run(_))
}

/// What all commands are given: the flags that all have, and when this process began.
#[derive(Debug)]
struct Invocation {
    global: GlobalFlags,
    begun: u64,
}

impl Invocation {
    fn place(&self) -> anyhow::Result<Place> {
        Place::find(&self.global)
    }

    fn open(&self) -> anyhow::Result<Engine> {
        self.place()?.open()
    }
}

/// Where things are, and what the settings say.
#[derive(Debug)]
struct Place {
    home: Home,
    installation: Installation,
    accelerator: AcceleratorChoice,
    settings: Settings,
}

impl Place {
    fn find(flags: &GlobalFlags) -> anyhow::Result<Self> {
        let environment = Environment::of_process(flags.home.clone().filter(|home| !home.as_os_str().is_empty()))?;
        let settings = match environment.settings_file() {
            Some(path) => Settings::read(&path)?,
            None => Settings::default(),
        };
        Ok(Self {
            home: environment.home().ok_or(engine::Error::NoHome)?,
            installation: Installation::find(&settings)?,
            accelerator: flags.accel.map(AcceleratorChoice::from).or(settings.accel).unwrap_or_default(),
            settings,
        })
    }

    fn open(self) -> anyhow::Result<Engine> {
        Ok(Engine::open(self.home, self.installation, &self.settings)?)
    }
}
