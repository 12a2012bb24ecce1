//! `coracle system df`, `system prune`, `image prune`: what there is on disk, and giving it back.

use std::io;

use engine::{
    ContainerPruneFilters, ContainerRecord, ContainerState, Engine,
    image::{Amount, Pruned, Usage, familiar},
    process::wall_clock_ns,
    quantity::human_decimal,
    space::is_over,
    volumes::{VolumeFilters, VolumeInfo},
};
use serde_json::{Value, json};

use crate::{
    containers, filters,
    images::{
        self,
        flags::{DfFlags, PruneFlags, SystemPruneFlags},
    },
    output::format::{self, Fields, ListFormat, Row},
    terminal::prompt,
    volumes,
};

const FIELDS: Fields = Fields(&[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
]);

const CONTENT_FIELDS: Fields = Fields(&[("Kind", "KIND"), ("Count", "COUNT"), ("Size", "SIZE")]);

/// What is on disk, in bytes of blocks in use.
struct Space {
    usage: Usage,
    containers: Vec<(ContainerRecord, u64)>,
    volumes: Vec<VolumeInfo>,
}

impl Space {
    fn measure(engine: &Engine) -> anyhow::Result<Self> {
        let containers = engine.containers()?.into_iter().map(|record| {
            let size = engine.container_size(&record.id);
            (record, size)
        });
        let containers = containers.collect();
        let volumes = engine.volumes(&VolumeFilters::default())?;
        Ok(Self { usage: engine.images().usage()?, containers, volumes })
    }

    fn rows(&self) -> Vec<Row> {
        let Self { usage, containers, volumes } = self;
        let running = containers.iter().filter(|(record, _)| record.state == ContainerState::Running).count();
        let (used, unused): (Vec<_>, Vec<_>) = volumes.iter().partition(|volume| !volume.users.is_empty());
        let bytes = |of: &[&VolumeInfo]| of.iter().map(|volume| volume.bytes).sum::<u64>();
        let size = containers.iter().map(|(_, size)| size).sum();
        let over = containers.iter().filter(|(record, _)| is_over(record)).map(|(_, size)| size).sum();
        vec![
            row("Images", usage.images.len(), usage.active, usage.size + usage.unneeded.bytes, usage.reclaimable),
            row("Containers", containers.len(), running, size, over),
            row("Local Volumes", volumes.len(), used.len(), bytes(&used) + bytes(&unused), bytes(&unused)),
            row("Partial Downloads", usize::from(usage.partial > 0), 0, usage.partial, usage.partial),
            row("Leftovers", usize::from(usage.temporary > 0), 0, usage.temporary, usage.temporary),
        ]
    }

    /// What the store holds, by kind.
    fn content(&self) -> Vec<Row> {
        let Usage { layers, blobs, roots, unneeded, .. } = &self.usage;
        let row = |kind: &str, amount: &Amount| {
            Row::new([
                ("Kind", kind.into()),
                ("Count", amount.count.into()),
                ("Size", human_decimal(amount.bytes).into()),
            ])
        };
        vec![
            row("Layers", layers),
            row("Documents and kept blobs", blobs),
            row("File system trees", roots),
            row("Of these, needed by no image", unneeded),
        ]
    }
}

fn row(kind: &str, total: usize, active: usize, size: u64, reclaimable: u64) -> Row {
    let share = u128::from(reclaimable) * 100 / u128::from(size.max(1));
    let reclaimable = if size > 0 { format!("{} ({share}%)", human_decimal(reclaimable)) } else { human_decimal(0) };
    Row::new([
        ("Type", kind.into()),
        ("TotalCount", total.to_string().into()),
        ("Active", active.to_string().into()),
        ("Size", human_decimal(size).into()),
        ("Reclaimable", reclaimable.into()),
    ])
}

pub(crate) fn df(engine: &Engine, flags: &DfFlags) -> anyhow::Result<()> {
    let space = Space::measure(engine)?;
    let format = &flags.format.format;
    if !flags.verbose {
        let columns = ["Type", "TotalCount", "Active", "Size", "Reclaimable"];
        return format::to_stdout(|out| format::write_list(out, format, FIELDS, &columns, &space.rows()));
    }
    let now = wall_clock_ns();
    let images: Vec<Row> = space.usage.images.iter().flat_map(|usage| images::list::usage_rows(usage, now)).collect();
    let containers: Vec<Row> =
        space.containers.iter().map(|(record, size)| containers::list::row_with_size(record, *size, now)).collect();
    let volumes = volumes::rows(&space.volumes);
    let content = space.content();
    if *format != ListFormat::Table {
        let all = json!({ "Images": values(images), "Containers": values(containers), "Volumes": values(volumes), "Content": values(content) });
        return format::to_stdout(|out| format::write_list(out, format, FIELDS, &[], &[Row::of(all)]));
    }
    format::to_stdout(|out| {
        writeln!(out, "Images space usage:\n")?;
        format::write_list(out, format, images::list::FIELDS, &images::list::USAGE_COLUMNS, &images)?;
        writeln!(out, "\nContainers space usage:\n")?;
        format::write_list(out, format, containers::list::FIELDS, &containers::list::USAGE_COLUMNS, &containers)?;
        writeln!(out, "\nLocal Volumes space usage:\n")?;
        format::write_list(out, format, volumes::FIELDS, &volumes::USAGE_COLUMNS, &volumes)?;
        writeln!(out, "\nContent space usage:\n")?;
        format::write_list(out, format, CONTENT_FIELDS, &["Kind", "Count", "Size"], &content)
    })
}

fn values(rows: Vec<Row>) -> Vec<Value> {
    rows.into_iter().map(Row::into_value).collect()
}

pub(crate) fn prune_images(engine: &Engine, flags: &PruneFlags) -> anyhow::Result<()> {
    let request = filters::of_pruning(&flags.filter, flags.all, wall_clock_ns())?;
    let which = if request.all { "all images without a container" } else { "all dangling images" };
    prompt::confirm_removal(
        &[which, "unfinished downloads, and what killed commands left"],
        &flags.filter,
        flags.force,
    )?;
    let pruned = engine.images().prune(&request)?;
    let mut out = io::stdout().lock();
    tell_images(&mut out, &pruned)?;
    tell_total(&mut out, pruned.bytes)
}

pub(crate) fn prune(engine: &Engine, flags: &SystemPruneFlags) -> anyhow::Result<()> {
    let SystemPruneFlags { prune: flags, volumes } = flags;
    let request = filters::of_pruning(&flags.filter, flags.all, wall_clock_ns())?;
    let images = if request.all { "all images without a container" } else { "all dangling images" };
    let mut what = vec!["all stopped containers", images, "unfinished downloads, and what killed commands left"];
    if *volumes {
        what.push("all volumes without a name that no container uses");
    }
    prompt::confirm_removal(&what, &flags.filter, flags.force)?;
    let mut out = io::stdout().lock();
    let containers = ContainerPruneFilters {
        until: request.until,
        labels: request.labels.clone(),
        without_labels: request.without_labels.clone(),
    };
    let pruned = engine.container_prune(&containers)?;
    let mut total = pruned.bytes;
    containers::prune::tell(&mut out, &pruned)?;
    if *volumes {
        let pruned = engine.prune_volumes(false, &VolumeFilters::default())?;
        total += pruned.bytes;
        volumes::tell_pruned(&mut out, &pruned)?;
    }
    let pruned = engine.images().prune(&request)?;
    tell_images(&mut out, &pruned)?;
    tell_total(&mut out, total + pruned.bytes)
}

fn tell_images(out: &mut impl io::Write, pruned: &Pruned) -> anyhow::Result<()> {
    if pruned.deleted.is_empty() && pruned.objects.is_empty() && pruned.leftovers == 0 {
        return Ok(());
    }
    if !pruned.deleted.is_empty() {
        writeln!(out, "Deleted Images:")?;
        pruned.untagged.iter().try_for_each(|name| writeln!(out, "untagged: {}", familiar(name)))?;
        pruned.deleted.iter().try_for_each(|id| writeln!(out, "deleted: {id}"))?;
        writeln!(out)?;
    }
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let objects = count(pruned.objects.len(), "object");
    let leftovers = count(pruned.leftovers, "leftover");
    writeln!(out, "Deleted from the store: {objects}, {leftovers}")?;
    Ok(())
}

fn tell_total(out: &mut impl io::Write, bytes: u64) -> anyhow::Result<()> {
    Ok(writeln!(out, "Total reclaimed space: {}", human_decimal(bytes))?)
}
