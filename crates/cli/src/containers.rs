//! `coracle ps`, `inspect`, `rm`.

use std::io::{self, Write as _};

use engine::{ContainerRecord, ContainerState, Engine, containers, names::short_id, process::wall_clock_ns};
use serde_json::{Value, json};

use crate::{
    command_line::{Format, PsFlags, RmFlags},
    report, table,
};

/// Longest command that a table shows.
const COMMAND_LENGTH: usize = 20;

pub(crate) fn list(engine: &Engine, flags: &PsFlags) -> anyhow::Result<()> {
    let mut records = engine.containers()?;
    records.retain(|record| flags.all || record.state == ContainerState::Running);
    let now = wall_clock_ns();
    let rows: Vec<Row> = records.iter().map(|record| Row::new(record, flags.list.no_trunc, now)).collect();
    let mut out = io::stdout().lock();
    if flags.list.quiet {
        rows.iter().try_for_each(|row| writeln!(out, "{}", row.id))?;
    } else if flags.list.format == Format::Json {
        rows.iter().try_for_each(|row| writeln!(out, "{}", row.json()))?;
    } else {
        let header = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"];
        table::write(&mut out, &header, &rows.into_iter().map(Row::cells).collect::<Vec<_>>())?;
    }
    Ok(())
}

struct Row {
    id: String,
    image: String,
    command: String,
    created: String,
    state: &'static str,
    status: String,
    name: String,
}

impl Row {
    fn new(record: &ContainerRecord, whole: bool, now: i64) -> Self {
        let words = record.spec["resolved"]["argv"].as_array().cloned().unwrap_or_default();
        let command = words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
        let command = if whole { command } else { table::shorten(&command, COMMAND_LENGTH) };
        Self {
            id: if whole { record.id.clone() } else { short_id(&record.id).to_owned() },
            image: record.image_ref.clone(),
            command: format!("\"{}\"", command.escape_debug()),
            created: format!("{} ago", table::since(record.created_at, now)),
            state: record.state.as_str(),
            status: status(record, now),
            name: record.name.clone(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "ID": self.id, "Image": self.image, "Command": self.command, "RunningFor": self.created,
            "State": self.state, "Status": self.status, "Names": self.name,
        })
    }

    fn cells(self) -> Vec<String> {
        vec![self.id, self.image, self.command, self.created, self.status, self.name]
    }
}

fn status(record: &ContainerRecord, now: i64) -> String {
    match record.state {
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Running => format!("Up {}", table::since(record.started_at.unwrap_or(now), now)),
        ContainerState::Exited => {
            let ago = table::since(record.finished_at.unwrap_or(now), now);
            format!("Exited ({}) {ago} ago", record.exit_code.unwrap_or_default())
        }
    }
}

pub(crate) fn inspect(engine: &Engine, names: &[String]) -> anyhow::Result<()> {
    let found = names.iter().map(|name| Ok(containers::inspect(&engine.container(name)?)));
    let found: Vec<Value> = found.collect::<anyhow::Result<_>>()?;
    writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&found)?)?;
    Ok(())
}

/// Removes all that can be removed, and complains about the others.
pub(crate) fn remove(engine: &Engine, flags: &RmFlags) -> anyhow::Result<u8> {
    let mut code = 0;
    for name in &flags.containers {
        match engine.remove_container(name, flags.force) {
            Ok(()) => writeln!(io::stdout(), "{name}")?,
            Err(error) => {
                report::print(&error.into());
                code = 1;
            }
        }
    }
    Ok(code)
}
