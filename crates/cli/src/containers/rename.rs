//! `coracle rename`.

use clap::Args;
use engine::{Engine, names};

#[derive(Debug, Args)]
#[command(override_usage = "CONTAINER NAME")]
pub(crate) struct RenameFlags {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    /// The name that it gets
    #[arg(value_name = "NAME", value_parser = name)]
    pub(crate) name: String,
}

fn name(text: &str) -> Result<String, names::InvalidName> {
    names::check_name(text).map(|()| text.to_owned())
}

pub(crate) fn rename(engine: &Engine, flags: &RenameFlags) -> anyhow::Result<()> {
    Ok(engine.rename(&flags.container, &flags.name)?)
}
