//! `coracle container prune`.

use std::io::{self, Write};

use clap::Args;
use engine::{Engine, process::wall_clock_ns, quantity::human_decimal, space::PrunedContainers};

use crate::{
    filters::{self, Filter},
    terminal::prompt,
};

#[derive(Debug, Args)]
pub(crate) struct ContainerPruneFlags {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Only what has until=TIME, label=KEY[=VALUE] or label!=KEY[=VALUE]; a time is as in 24h or 2026-11-23
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<Filter>,
}

pub(crate) fn prune(engine: &Engine, flags: &ContainerPruneFlags) -> anyhow::Result<()> {
    let filters = filters::of_container_pruning(&flags.filter, wall_clock_ns())?;
    prompt::confirm_removal(&["all stopped containers"], &flags.filter, flags.force)?;
    let pruned = engine.container_prune(&filters)?;
    let mut out = io::stdout().lock();
    tell(&mut out, &pruned)?;
    Ok(writeln!(out, "Total reclaimed space: {}", human_decimal(pruned.bytes))?)
}

/// Says which containers are gone.
pub(crate) fn tell(out: &mut impl Write, pruned: &PrunedContainers) -> io::Result<()> {
    if !pruned.ids.is_empty() {
        writeln!(out, "Deleted Containers:")?;
        pruned.ids.iter().try_for_each(|id| writeln!(out, "{id}"))?;
        writeln!(out)?;
    }
    Ok(())
}
