//! `coracle history`.

use engine::{Engine, image::HistoryEntry, names::short_id, process::wall_clock_ns, quantity::human_decimal};

use crate::{
    images::flags::{HistoryFlags, ListFlags},
    output::{
        format::{self, Fields, ListFormat, Row},
        table,
    },
};

/// Longest command that a table shows.
const COMMAND_LENGTH: usize = 45;

const FIELDS: Fields = Fields(&[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
]);

pub(crate) fn history(engine: &Engine, flags: &HistoryFlags) -> anyhow::Result<()> {
    let images = engine.images();
    let entries = images.history(&images.resolve(&flags.image)?)?;
    let ListFlags { quiet, no_trunc, format } = &flags.list;
    if *quiet && format.format == ListFormat::Table {
        return format::to_stdout(|out| {
            Ok(entries.iter().try_for_each(|entry| writeln!(out, "{}", shown_id(entry, *no_trunc)))?)
        });
    }
    let now = wall_clock_ns();
    let rows: Vec<Row> = entries.iter().map(|entry| row(entry, *no_trunc, flags.human, now)).collect();
    let created = if flags.human { "CreatedSince" } else { "CreatedAt" };
    let columns = ["ID", created, "CreatedBy", "Size", "Comment"];
    format::to_stdout(|out| format::write_list(out, &format.format, FIELDS, &columns, &rows))
}

fn shown_id(entry: &HistoryEntry, whole: bool) -> &str {
    match entry.id.as_deref() {
        Some(id) if !whole => short_id(id),
        Some(id) => id,
        None => "<missing>",
    }
}

fn row(entry: &HistoryEntry, whole: bool, human: bool, now: i64) -> Row {
    let created = entry.created.as_deref().and_then(table::moment);
    let created_by = entry.created_by.replace(['\t', '\n'], " ");
    let created_by = if whole { created_by } else { table::shorten(&created_by, COMMAND_LENGTH) };
    let size = if human { human_decimal(entry.size) } else { entry.size.to_string() };
    Row::new([
        ("ID", shown_id(entry, whole).into()),
        ("CreatedSince", created.map_or("N/A".to_owned(), |at| format!("{} ago", table::since(at, now))).into()),
        ("CreatedAt", entry.created.as_deref().unwrap_or("N/A").into()),
        ("CreatedBy", created_by.into()),
        ("Size", size.into()),
        ("Comment", entry.comment.as_str().into()),
    ])
}
