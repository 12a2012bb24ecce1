//! The commands about volumes.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use engine::{
    Engine,
    quantity::human_decimal,
    volumes::{CreateVolume, PrunedVolumes, VolumeFilters, VolumeInfo},
};

use crate::{
    Invocation,
    containers::flags::container::label,
    filters::{self, Filter},
    images::flags::FormatFlag,
    output::{
        format::{self, Fields, InspectFormat, ListFormat, Row},
        report,
    },
    terminal::prompt,
};

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume
    Create(CreateFlags),
    /// Show everything about volumes, as JSON
    Inspect(InspectFlags),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(LsFlags),
    /// Remove volumes that nobody uses
    Prune(PruneFlags),
    /// Remove volumes
    #[command(visible_alias = "remove")]
    Rm(RmFlags),
}

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] [NAME]")]
pub(crate) struct CreateFlags {
    /// Name; a random one if it is missing
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Name, as old scripts give it
    #[arg(long = "name", value_name = "NAME", hide = true, conflicts_with = "name")]
    pub(crate) named: Option<String>,
    /// What it is made of: block, a disk with an ext4 file system, which is the only one
    #[arg(short, long, value_name = "DRIVER")]
    pub(crate) driver: Option<String>,
    /// size=SIZE is the most that it takes, 10g if not given; what is not used takes no space
    #[arg(short, long = "opt", value_name = "NAME=VALUE")]
    pub(crate) options: Vec<String>,
    /// Set a label
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct LsFlags {
    /// Only volumes with name=PART, label=KEY[=VALUE], dangling=true, driver=DRIVER
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<Filter>,
    /// Only names
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) format: FormatFlag,
}

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] VOLUME...")]
pub(crate) struct InspectFlags {
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    pub(crate) names: Vec<String>,
    /// json (one object a line), or a template, as in '{{.Name}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<InspectFormat>,
}

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] VOLUME...")]
pub(crate) struct RmFlags {
    /// What is not there is fine
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PruneFlags {
    /// Also those that have a name
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Only volumes with label=KEY[=VALUE]
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<Filter>,
}

pub(crate) const FIELDS: Fields = Fields(&[
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Scope", "SCOPE"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
    ("Status", "STATUS"),
    ("Availability", "AVAILABILITY"),
    ("Group", "GROUP"),
]);

/// What `system df -v` shows of volumes.
pub(crate) const USAGE_COLUMNS: [&str; 3] = ["Name", "Links", "Size"];

/// Does what a command behind `volume` says.
pub(crate) fn command(invocation: &Invocation, command: &VolumeCommand) -> anyhow::Result<u8> {
    let engine = invocation.open()?;
    match command {
        VolumeCommand::Create(flags) => create(&engine, flags)?,
        VolumeCommand::Ls(flags) => list(&engine, flags)?,
        VolumeCommand::Inspect(flags) => return inspect(&engine, flags),
        VolumeCommand::Rm(flags) => return remove(&engine, flags),
        VolumeCommand::Prune(flags) => prune(&engine, flags)?,
    }
    Ok(0)
}

/// Makes a volume and prints its name.
fn create(engine: &Engine, flags: &CreateFlags) -> anyhow::Result<()> {
    let request = CreateVolume {
        name: flags.name.clone().or_else(|| flags.named.clone()).filter(|name| !name.is_empty()),
        driver: flags.driver.clone(),
        options: flags.options.clone(),
        labels: flags.label.iter().cloned().collect(),
    };
    Ok(writeln!(io::stdout(), "{}", engine.create_volume(&request)?.name)?)
}

fn list(engine: &Engine, flags: &LsFlags) -> anyhow::Result<()> {
    let volumes = engine.volumes(&filters::of_volumes(&flags.filter)?.0)?;
    let format = &flags.format.format;
    format::to_stdout(|out| {
        if flags.quiet && *format == ListFormat::Table {
            return Ok(volumes.iter().try_for_each(|volume| writeln!(out, "{}", volume.record.name))?);
        }
        format::write_list(out, format, FIELDS, &["Driver", "Name"], &rows(&volumes))
    })
}

/// Volumes as rows of a list. What there is only in a cluster is not available.
pub(crate) fn rows(volumes: &[VolumeInfo]) -> Vec<Row> {
    let rows = volumes.iter().map(|volume| {
        let labels: Vec<_> = volume.record.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Row::new([
            ("Driver", DRIVER.into()),
            ("Name", volume.record.name.as_str().into()),
            ("Mountpoint", volume.directory.to_string_lossy().into()),
            ("Scope", "local".into()),
            ("Labels", labels.join(",").into()),
            ("Links", volume.users.len().to_string().into()),
            ("Size", human_decimal(volume.bytes).into()),
            ("Status", "N/A".into()),
            ("Availability", "N/A".into()),
            ("Group", "N/A".into()),
        ])
        .labelled(&volume.record.labels)
    });
    rows.collect()
}

/// The only driver.
const DRIVER: &str = "block";

/// Shows all that there are, and complains about the others.
fn inspect(engine: &Engine, flags: &InspectFlags) -> anyhow::Result<u8> {
    let (found, code) = report::each(&flags.names, |name| Ok(engine.inspect_volume(name)?));
    format::to_stdout(|out| format::write_things(out, flags.format.as_ref(), &found))?;
    Ok(code)
}

/// Removes all that can be removed, and complains about the others.
fn remove(engine: &Engine, flags: &RmFlags) -> anyhow::Result<u8> {
    let (_, code) = report::each(&flags.names, |name| {
        engine.remove_volume(name, flags.force)?;
        Ok(writeln!(io::stdout(), "{name}")?)
    });
    Ok(code)
}

fn prune(engine: &Engine, flags: &PruneFlags) -> anyhow::Result<()> {
    let (filters, all): (VolumeFilters, bool) = filters::of_volumes(&flags.filter)?;
    let all = all || flags.all;
    let which =
        if all { "all volumes that no container uses" } else { "all volumes without a name that no container uses" };
    prompt::confirm_removal(&[which], &flags.filter, flags.force)?;
    let pruned = engine.prune_volumes(all, &filters)?;
    let mut out = io::stdout().lock();
    tell_pruned(&mut out, &pruned)?;
    Ok(writeln!(out, "Total reclaimed space: {}", human_decimal(pruned.bytes))?)
}

/// Says which volumes are gone.
pub(crate) fn tell_pruned(out: &mut impl Write, pruned: &PrunedVolumes) -> io::Result<()> {
    if !pruned.names.is_empty() {
        writeln!(out, "Deleted Volumes:")?;
        pruned.names.iter().try_for_each(|name| writeln!(out, "{name}"))?;
        writeln!(out)?;
    }
    Ok(())
}
