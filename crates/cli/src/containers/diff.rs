//! `coracle diff`.

use clap::Args;
use engine::Engine;

use crate::output::{format, table};

#[derive(Debug, Args)]
#[command(
    override_usage = "CONTAINER",
    after_help = "A is a path that the container added, C one that it changed, D one that it deleted."
)]
pub(crate) struct DiffFlags {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
}

/// Lists what a container changed in its image. Names cannot steer the terminal.
pub(crate) fn diff(engine: &Engine, flags: &DiffFlags) -> anyhow::Result<()> {
    let changes = engine.diff(&flags.container)?;
    format::to_stdout(|out| {
        for change in &changes {
            writeln!(out, "{} {}", change.kind.letter(), table::visible(&change.path.to_string_lossy()))?;
        }
        Ok(())
    })
}
