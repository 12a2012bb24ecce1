//! `coracle ps`.

use clap::Args;
use engine::{
    ContainerRecord, ContainerState, Engine, names::short_id, process::wall_clock_ns, quantity::human_decimal,
};
use serde_json::Value;

use crate::{
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
    #[command(flatten)]
    pub(crate) list: ListFlags,
}

/// Longest command that a table shows.
const COMMAND_LENGTH: usize = 20;

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
    ("Size", "SIZE"),
]);

/// What `system df -v` shows of containers.
pub(crate) const USAGE_COLUMNS: [&str; 7] = ["ID", "Image", "Command", "Size", "RunningFor", "Status", "Names"];

pub(crate) fn list(engine: &Engine, flags: &PsFlags) -> anyhow::Result<()> {
    let mut records = engine.containers()?;
    records.retain(|record| flags.all || record.state.is_live());
    let ListFlags { quiet, no_trunc, format } = &flags.list;
    if *quiet && format.format == ListFormat::Table {
        return format::to_stdout(|out| {
            Ok(records.iter().try_for_each(|record| writeln!(out, "{}", shown_id(record, *no_trunc)))?)
        });
    }
    let now = wall_clock_ns();
    let rows: Vec<Row> = records.iter().map(|record| row(record, *no_trunc, now)).collect();
    let columns = ["ID", "Image", "Command", "RunningFor", "Status", "Names"];
    format::to_stdout(|out| format::write_list(out, &format.format, FIELDS, &columns, &rows))
}

fn shown_id(record: &ContainerRecord, whole: bool) -> &str {
    if whole { &record.id } else { short_id(&record.id) }
}

/// What there is none of yet (ports, labels, mounts, networks) is empty, as for a container that has none.
fn row(record: &ContainerRecord, whole: bool, now: i64) -> Row {
    let words = record.spec["resolved"]["argv"].as_array().cloned().unwrap_or_default();
    let command = words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
    let command = if whole { command } else { table::shorten(&command, COMMAND_LENGTH) };
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
        ("Labels", "".into()),
        ("Mounts", "".into()),
        ("Networks", "".into()),
        ("Size", "N/A".into()),
    ])
}

/// A container with what it costs on disk.
pub(crate) fn row_with_size(record: &ContainerRecord, size: u64, now: i64) -> Row {
    row(record, false, now).with([("Size", human_decimal(size).into())])
}

fn status(record: &ContainerRecord, now: i64) -> String {
    match record.state {
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Running => format!("Up {}", table::since(record.started_at.unwrap_or(now), now)),
        ContainerState::Paused => format!("Up {} (Paused)", table::since(record.started_at.unwrap_or(now), now)),
        ContainerState::Restarting => {
            let ago = table::since(record.finished_at.unwrap_or(now), now);
            format!("Restarting ({}) {ago} ago", record.exit_code.unwrap_or_default())
        }
        ContainerState::Exited => {
            let ago = table::since(record.finished_at.unwrap_or(now), now);
            format!("Exited ({}) {ago} ago", record.exit_code.unwrap_or_default())
        }
    }
}
