//! `coracle`: the command line. Flags become a request to the engine; what comes back becomes text, streams and an
//! exit code. Nothing is decided here that another front end would have to decide too.
//!
//! - [`command_line`], [`run_flags`], [`image_flags`] and [`registry_flags`] are the flags, [`resolve`] turns those of
//!   `run` into a request.
//! - [`run`] runs a container: [`attach`] connects streams and signals, [`terminal`] keeps the user's terminal whole.
//! - [`images`], [`history`], [`load`], [`save`], [`import`], [`verify`], [`transfer`], [`login`], [`system`],
//!   [`containers`] and [`doctor`] are the other commands; [`filters`] and [`platform`] are what confines them,
//!   [`prompt`] asks.
//! - [`mod@format`] writes their lists and objects: as a [`table`], as JSON, or by a [`template`]; [`progress`] shows how
//!   far they have got.
//! - [`report`] is the only place that prints errors, [`usage`] those of the command line itself.
//!
//! The same program is a container's keeper when its first argument says so; that way round the flags are never
//! looked at, for a keeper is to stay small.

mod attach;
mod command_line;
mod containers;
mod doctor;
mod filters;
mod format;
mod history;
mod image_flags;
mod images;
mod import;
mod load;
mod login;
mod platform;
mod progress;
mod prompt;
mod registry_flags;
mod report;
mod resolve;
mod run;
mod run_flags;
mod save;
mod system;
mod table;
mod template;
mod terminal;
mod transfer;
mod usage;
mod verify;

use std::{env, process::ExitCode};

use clap::Parser as _;
use engine::{AcceleratorChoice, Engine, Environment, Home, Installation, Settings};

use crate::command_line::{Command, CommandLine, GlobalFlags, ImageCommand, SystemCommand};

fn main() -> ExitCode {
    let begun = engine::timings::now();
    if env::args_os().nth(1).is_some_and(|word| word == engine::keeper::SUBCOMMAND) {
        return engine::keeper::main();
    }
    let command_line = CommandLine::try_parse().unwrap_or_else(|error| usage::exit_with(error));
    let failed = if matches!(command_line.command, Command::Run(_)) { report::NOT_RUN } else { report::FAILED };
    match command(command_line, begun) {
        Ok(code) => ExitCode::from(code),
        // Whoever read our output has seen enough.
        Err(error) if report::is_broken_pipe(&error) => ExitCode::from(report::BROKEN_PIPE),
        Err(error) => {
            report::print(&error);
            ExitCode::from(failed)
        }
    }
}

fn command(command_line: CommandLine, begun: u64) -> anyhow::Result<u8> {
    let CommandLine { global, command } = command_line;
    match command {
        Command::Run(flags) => return run::run(&global, &flags, begun),
        Command::Doctor(flags) => return doctor::doctor(&Place::find(&global)?, &flags),
        Command::Version => version(),
        Command::Load(flags) | Command::Image(ImageCommand::Load(flags)) => load::load(&open(&global)?, &flags)?,
        Command::Save(flags) | Command::Image(ImageCommand::Save(flags)) => save::save(&open(&global)?, &flags)?,
        Command::Import(flags) | Command::Image(ImageCommand::Import(flags)) => {
            import::import(&open(&global)?, &flags)?;
        }
        Command::Image(ImageCommand::Verify(flags)) => return verify::verify(&open(&global)?, &flags),
        Command::Images(flags) | Command::Image(ImageCommand::Ls(flags)) => images::list(&open(&global)?, &flags)?,
        Command::History(flags) | Command::Image(ImageCommand::History(flags)) => {
            history::history(&open(&global)?, &flags)?;
        }
        Command::Pull(flags) | Command::Image(ImageCommand::Pull(flags)) => transfer::pull(&open(&global)?, &flags)?,
        Command::Push(flags) | Command::Image(ImageCommand::Push(flags)) => transfer::push(&open(&global)?, &flags)?,
        Command::Login(flags) => login::login(&open(&global)?, &flags)?,
        Command::Logout(flags) => login::logout(&flags)?,
        Command::Image(ImageCommand::Prune(flags)) => system::prune_images(&open(&global)?, &flags)?,
        Command::System(SystemCommand::Df(flags)) => system::df(&open(&global)?, &flags)?,
        Command::System(SystemCommand::Prune(flags)) => system::prune(&open(&global)?, &flags.prune)?,
        Command::Rmi(flags) | Command::Image(ImageCommand::Rm(flags)) => {
            return images::remove(&open(&global)?, &flags);
        }
        Command::Tag(flags) | Command::Image(ImageCommand::Tag(flags)) => images::tag(&open(&global)?, &flags)?,
        Command::Image(ImageCommand::Inspect(flags)) => return images::inspect(&open(&global)?, &flags),
        Command::Ps(flags) => containers::list(&open(&global)?, &flags)?,
        Command::Inspect(flags) => return containers::inspect(&open(&global)?, &flags),
        Command::Rm(flags) => return containers::remove(&open(&global)?, &flags),
    }
    Ok(0)
}

fn version() {
    println!("coracle {}", env!("CARGO_PKG_VERSION"));
    println!("guest protocol {}", engine::GUEST_PROTOCOL_VERSION);
    println!("keeper protocol {}", engine::keeper::wire::VERSION);
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
}

fn open(flags: &GlobalFlags) -> anyhow::Result<Engine> {
    let place = Place::find(flags)?;
    Ok(Engine::open(place.home, place.installation, &place.settings)?)
}
