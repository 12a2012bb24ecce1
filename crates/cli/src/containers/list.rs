//! `coracle ps`.

use clap::Args;
use engine::{
    ContainerRecord, Engine, create::Spec, mounts::MountRequest, names::short_id, process::wall_clock_ns,
    quantity::human_decimal,
};
use serde_json::Value;

use crate::{
    containers::status::status,
    filters::{self, Filter},
    images::flags::ListFlags,
    output::{
        format::{self, Fields, ListFormat, Row},
        table,
    },
};

#[derive(Debug, Args)]
pub(crate) struct PsFlags {
    /// Also those that do not run
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only containers with status=STATE, name=PART, id=START, label=KEY[=VALUE], ancestor=IMAGE, exited=CODE,
    /// health=STATE, before=CONTAINER, since=CONTAINER, volume=NAME|PATH
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<Filter>,
    /// Only the last so many that were made, running or not
    #[arg(short = 'n', long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i64))]
    pub(crate) last: Option<i64>,
    /// Only the last one that was made, running or not
    #[arg(short, long)]
    pub(crate) latest: bool,
    /// Count what they take on disk
    #[arg(short, long)]
    pub(crate) size: bool,
    #[command(flatten)]
    pub(crate) list: ListFlags,
}

/// Longest command that a table shows.
const COMMAND_LENGTH: usize = 20;

/// Longest name of a mount that a table shows.
const MOUNT_LENGTH: usize = 15;

pub(crate) const FIELDS: Fields = Fields(&[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Names", "NAMES"),
    ("Ports", "PORTS"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Size", "SIZE"),
]);

/// What `ps` shows.
const COLUMNS: [&str; 7] = ["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"];

/// What `system df -v` shows of containers.
pub(crate) const USAGE_COLUMNS: [&str; 7] = ["ID", "Image", "Command", "Size", "RunningFor", "Status", "Names"];

pub(crate) fn list(engine: &Engine, flags: &PsFlags) -> anyhow::Result<()> {
    let mut filters = filters::of_containers(&flags.filter)?;
    filters.all |= flags.all;
    // Docker's default is -1: no bound.
    let last = flags.last.and_then(|last| usize::try_from(last).ok()).filter(|last| *last > 0);
    filters.last = if flags.latest { Some(1) } else { last };
    let records = engine.containers_matching(&filters)?;
    let ListFlags { quiet, no_trunc, format } = &flags.list;
    if *quiet && format.format == ListFormat::Table {
        return format::to_stdout(|out| {
            Ok(records.iter().try_for_each(|record| writeln!(out, "{}", shown_id(record, *no_trunc)))?)
        });
    }
    let now = wall_clock_ns();
    let rows = records.iter().map(|record| {
        let row = row(record, *no_trunc, now);
        Ok(if flags.size { row.with([("Size", size(engine, record)?.into())]) } else { row })
    });
    let rows: Vec<Row> = rows.collect::<anyhow::Result<_>>()?;
    let mut columns = COLUMNS.to_vec();
    if flags.size {
        columns.push("Size");
    }
    format::to_stdout(|out| format::write_list(out, &format.format, FIELDS, &columns, &rows))
}

/// What a container wrote, and what it has with its image.
fn size(engine: &Engine, record: &ContainerRecord) -> anyhow::Result<String> {
    let own = engine.container_size(&record.id);
    let image = engine.images().list()?.into_iter().find(|image| image.id == record.image_id);
    let whole = own + image.map_or(0, |image| image.size);
    Ok(format!("{} (virtual {})", human_decimal(own), human_decimal(whole)))
}

fn shown_id(record: &ContainerRecord, whole: bool) -> &str {
    if whole { &record.id } else { short_id(&record.id) }
}

/// Ports and networks there are none of yet.
fn row(record: &ContainerRecord, whole: bool, now: i64) -> Row {
    let words = record.spec["resolved"]["argv"].as_array().cloned().unwrap_or_default();
    let command = words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
    let command = if whole { command } else { table::shorten(&command, COMMAND_LENGTH) };
    let labels: Vec<_> = record.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let (mounts, volumes) = mounts(record, whole);
    Row::new([
        ("ID", shown_id(record, whole).into()),
        ("Image", record.image_ref.as_str().into()),
        ("Command", format!("\"{}\"", command.escape_debug()).into()),
        ("CreatedAt", table::local_time(record.created_at).into()),
        ("RunningFor", format!("{} ago", table::since(record.created_at, now)).into()),
        ("State", record.state.as_str().into()),
        ("Status", status(record, now).into()),
        ("Names", record.name.as_str().into()),
        ("Ports", "".into()),
        ("Labels", labels.join(",").into()),
        ("Mounts", mounts.join(",").into()),
        ("Networks", "".into()),
        ("LocalVolumes", volumes.to_string().into()),
        ("Size", "N/A".into()),
    ])
    .labelled(&record.labels)
}

/// What is mounted, and how many volumes are among it.
fn mounts(record: &ContainerRecord, whole: bool) -> (Vec<String>, usize) {
    let Ok(spec) = Spec::of(record) else { return (Vec::new(), 0) };
    let shown = |name: &str| if whole { name.to_owned() } else { table::shorten(name, MOUNT_LENGTH) };
    let mut mounts: Vec<_> = spec.resolved.volumes.iter().map(|mount| shown(&mount.volume)).collect();
    let volumes = mounts.len();
    let tmpfs = spec.request.volumes.iter().filter_map(|mount| match mount {
        MountRequest::Tmpfs(tmpfs) => Some(tmpfs),
        MountRequest::Volume(_) | MountRequest::Bind(_) => None,
    });
    mounts.extend(spec.resolved.binds.iter().map(|mount| shown(&mount.source)));
    mounts.extend(tmpfs.chain(&spec.request.tmpfs).map(|tmpfs| shown(&tmpfs.path)));
    (mounts, volumes)
}

/// A container with what it costs on disk.
pub(crate) fn row_with_size(record: &ContainerRecord, size: u64, now: i64) -> Row {
    row(record, false, now).with([("Size", human_decimal(size).into())])
}
