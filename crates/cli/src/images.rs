//! `coracle images`, `rmi`, `image inspect`.

use std::io::{self, Write as _};

use engine::{Engine, ImageRecord, image::familiar, names::short_id, process::wall_clock_ns, quantity::human_decimal};
use serde_json::{Value, json};

use crate::{
    command_line::{Format, ListFlags, RmiFlags},
    report, table,
};

/// What stands where an image has no name.
const NONE: &str = "<none>";

pub(crate) fn list(engine: &Engine, flags: &ListFlags) -> anyhow::Result<()> {
    let images = engine.images().list()?;
    let now = wall_clock_ns();
    let mut out = io::stdout().lock();
    if flags.quiet {
        for image in &images {
            writeln!(out, "{}", shown_id(image, flags.no_trunc))?;
        }
        return Ok(());
    }
    let rows = images.iter().flat_map(|image| rows(image, flags.no_trunc, now));
    if flags.format == Format::Json {
        for [repository, tag, id, created, size] in rows {
            let row = json!({ "Repository": repository, "Tag": tag, "ID": id, "CreatedSince": created, "Size": size });
            writeln!(out, "{row}")?;
        }
        return Ok(());
    }
    let rows: Vec<_> = rows.map(Vec::from).collect();
    table::write(&mut out, &["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], &rows)?;
    Ok(())
}

fn shown_id(image: &ImageRecord, whole: bool) -> String {
    if whole { image.id.clone() } else { short_id(&image.id).to_owned() }
}

/// A row for each name of an image.
fn rows(image: &ImageRecord, whole: bool, now: i64) -> Vec<[String; 5]> {
    let row = |repository: &str, tag: &str| {
        [repository.to_owned(), tag.to_owned(), shown_id(image, whole), created(image, now), human_decimal(image.size)]
    };
    if image.names.is_empty() {
        return vec![row(NONE, NONE)];
    }
    image.names.iter().map(|name| split(familiar(name))).map(|(repository, tag)| row(repository, tag)).collect()
}

/// A name's repository and tag. A colon before a slash belongs to a port.
fn split(name: &str) -> (&str, &str) {
    if let Some((repository, _digest)) = name.split_once('@') {
        return (repository, NONE);
    }
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, NONE),
    }
}

fn created(image: &ImageRecord, now: i64) -> String {
    let moment = image.created.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    match moment.and_then(|moment| i64::try_from(moment.as_nanosecond()).ok()) {
        Some(moment) => format!("{} ago", table::since(moment, now)),
        None => "N/A".to_owned(),
    }
}

pub(crate) fn inspect(engine: &Engine, names: &[String]) -> anyhow::Result<()> {
    let images = engine.images();
    let found = names.iter().map(|name| Ok(serde_json::to_value(images.inspect(&images.resolve(name)?)?)?));
    let found: Vec<Value> = found.collect::<anyhow::Result<_>>()?;
    writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&found)?)?;
    Ok(())
}

/// Removes all that can be removed, and complains about the others.
pub(crate) fn remove(engine: &Engine, flags: &RmiFlags) -> anyhow::Result<u8> {
    let mut code = 0;
    let mut out = io::stdout().lock();
    for name in &flags.images {
        match engine.images().remove(name, flags.force) {
            Ok(removed) => {
                for name in &removed.untagged {
                    writeln!(out, "Untagged: {}", familiar(name))?;
                }
                if let Some(id) = &removed.deleted {
                    writeln!(out, "Deleted: {id}")?;
                }
            }
            Err(error) => {
                report::print(&error.into());
                code = 1;
            }
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_as_docker_shows_them() {
        assert_eq!(split("busybox:latest"), ("busybox", "latest"));
        assert_eq!(split("host:5000/a/b:1"), ("host:5000/a/b", "1"));
        assert_eq!(split("host:5000/a/b"), ("host:5000/a/b", NONE));
        assert_eq!(split("a@sha256:00"), ("a", NONE));
    }
}
