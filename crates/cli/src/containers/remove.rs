//! `coracle rm`.

use std::io::{self, Write as _};

use clap::Args;
use engine::{Engine, RemoveOptions, StateError};

use crate::output::report::{self, Refusal};

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] CONTAINER...")]
pub(crate) struct RmFlags {
    /// End those that run; what is not there is fine
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Remove the volumes that only they have
    #[arg(short, long)]
    pub(crate) volumes: bool,
    /// Not supported: there are no links
    #[arg(short, long, hide = true)]
    pub(crate) link: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Removes all that can be removed, and complains about the others.
pub(crate) fn remove(engine: &Engine, flags: &RmFlags) -> anyhow::Result<u8> {
    if flags.link {
        return Err(Refusal::new("there are no links between containers", "leave --link away").into());
    }
    let options = RemoveOptions { force: flags.force, volumes: flags.volumes };
    let (_, code) = report::each(&flags.containers, |name| {
        match engine.remove_container(name, &options) {
            // As with `rm` of files, force makes it fine.
            Err(error @ engine::Error::State(StateError::NoSuchContainer { .. })) if flags.force => {
                report::print(&error.into());
                return Ok(());
            }
            removed => removed?,
        }
        Ok(writeln!(io::stdout(), "{name}")?)
    });
    Ok(code)
}
