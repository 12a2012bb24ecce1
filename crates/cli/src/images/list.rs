//! `coracle images`.

use engine::{
    Engine, ImageRecord,
    image::{ImageUsage, familiar},
    names::short_id,
    process::wall_clock_ns,
    quantity::human_decimal,
};

use crate::{
    filters,
    images::flags::{ImagesFlags, ListFlags},
    output::{
        format::{self, Fields, ListFormat, Row},
        table,
    },
};

/// What stands where there is nothing.
const NONE: &str = "<none>";

/// What stands where nothing was counted.
const NOT_COUNTED: &str = "N/A";

pub(crate) const FIELDS: Fields = Fields(&[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("VirtualSize", "VIRTUAL SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("Containers", "CONTAINERS"),
    ("Platform", "PLATFORM"),
]);

/// What `system df -v` shows of images.
pub(crate) const USAGE_COLUMNS: [&str; 8] =
    ["Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers"];

pub(crate) fn list(engine: &Engine, flags: &ImagesFlags) -> anyhow::Result<()> {
    let filter = filters::of_list(&flags.filter, flags.name.as_deref(), wall_clock_ns())?;
    let images = engine.images().list_filtered(&filter)?;
    let ListFlags { quiet, no_trunc, format } = &flags.list;
    if *quiet && format.format == ListFormat::Table {
        return format::to_stdout(|out| {
            Ok(images.iter().try_for_each(|image| writeln!(out, "{}", shown_id(&image.id, *no_trunc)))?)
        });
    }
    let now = wall_clock_ns();
    let names =
        |image: &ImageRecord| names(&image.names, &image.digests, image.manifest_digest.as_deref(), flags.digests);
    let rows = images.iter().flat_map(|image| names(image).into_iter().map(|name| row(image, &name, *no_trunc, now)));
    let rows: Vec<Row> = rows.collect();
    let columns: &[&str] = if flags.digests {
        &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"]
    } else {
        &["Repository", "Tag", "ID", "CreatedSince", "Size"]
    };
    format::to_stdout(|out| format::write_list(out, &format.format, FIELDS, columns, &rows))
}

fn shown_id(id: &str, whole: bool) -> &str {
    if whole { id } else { short_id(id) }
}

/// A repository, a tag and a digest under which an image is known.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    repository: String,
    tag: String,
    digest: String,
}

/// What an image is known as, a row each; with `all_digests` one for each digest of a name. In a repository of which
/// no digest is known, it has that of its own manifest.
fn names(names: &[String], digests: &[String], own: Option<&str>, all_digests: bool) -> Vec<Name> {
    let digests: Vec<_> = digests.iter().filter_map(|text| familiar(text).split_once('@')).collect();
    let tags: Vec<_> = names.iter().map(|name| split(familiar(name))).collect();
    let tags_of = |of: &str| tags.iter().filter(move |(repository, _)| *repository == of).count();
    let untagged = digests.iter().map(|(repository, _)| *repository).filter(|of| tags_of(of) == 0);
    let mut known: Vec<_> = tags.iter().copied().chain(untagged.map(|repository| (repository, NONE))).collect();
    known.dedup();
    let name = |repository: &str, tag: &str, digest: &str| Name {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        digest: digest.to_owned(),
    };
    let mut rows = Vec::new();
    for (repository, tag) in known {
        let mut of_it = digests.iter().filter(|(of, _)| *of == repository).map(|(_, digest)| *digest);
        rows.push(name(repository, tag, of_it.next().or(own).unwrap_or(NONE)));
        rows.extend(of_it.filter(|_| all_digests).map(|digest| name(repository, tag, digest)));
    }
    if rows.is_empty() { vec![name(NONE, NONE, NONE)] } else { rows }
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

fn row(image: &ImageRecord, name: &Name, whole: bool, now: i64) -> Row {
    let created = image.created.as_deref().and_then(table::moment);
    Row::new([
        ("ID", shown_id(&image.id, whole).into()),
        ("Repository", name.repository.as_str().into()),
        ("Tag", name.tag.as_str().into()),
        ("Digest", name.digest.as_str().into()),
        ("CreatedSince", created.map_or(NOT_COUNTED.to_owned(), |at| format!("{} ago", table::since(at, now))).into()),
        ("CreatedAt", created.map_or(NOT_COUNTED.to_owned(), table::local_time).into()),
        ("Size", human_decimal(image.size).into()),
        ("VirtualSize", human_decimal(image.size).into()),
        ("SharedSize", NOT_COUNTED.into()),
        ("UniqueSize", NOT_COUNTED.into()),
        ("Containers", NOT_COUNTED.into()),
        ("Platform", image.platform.as_str().into()),
    ])
}

/// An image with what it costs on disk, a row for each name.
pub(crate) fn usage_rows(usage: &ImageUsage, now: i64) -> Vec<Row> {
    let ImageUsage { image, containers, size, shared } = usage;
    let names = names(&image.names, &image.digests, image.manifest_digest.as_deref(), false);
    let rows = names.into_iter().map(|name| {
        let row = row(image, &name, false, now);
        row.with([
            ("Size", human_decimal(*size).into()),
            ("VirtualSize", human_decimal(*size).into()),
            ("SharedSize", human_decimal(*shared).into()),
            ("UniqueSize", human_decimal(usage.unique()).into()),
            ("Containers", containers.to_string().into()),
        ])
    });
    rows.collect()
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

    #[test]
    fn rows_of_an_image() {
        let rows = |tags: &[&str], digests: &[&str], all: bool| {
            let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            let rows = names(&own(tags), &own(digests), Some("sha256:00"), all);
            rows.iter().map(|n| format!("{} {} {}", n.repository, n.tag, n.digest)).collect::<Vec<_>>()
        };
        assert_eq!(rows(&[], &[], true), ["<none> <none> <none>"]);
        let tags = ["docker.io/library/a:1", "docker.io/library/a:2", "localhost:5000/b:1"];
        let digests = ["docker.io/library/a@sha256:11", "docker.io/library/a@sha256:22", "other.io/c@sha256:33"];
        assert_eq!(
            rows(&tags, &digests, false),
            ["a 1 sha256:11", "a 2 sha256:11", "localhost:5000/b 1 sha256:00", "other.io/c <none> sha256:33"]
        );
        assert_eq!(rows(&tags[..1], &digests, true), ["a 1 sha256:11", "a 1 sha256:22", "other.io/c <none> sha256:33"]);
    }
}
