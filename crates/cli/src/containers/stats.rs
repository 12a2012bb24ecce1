//! `coracle stats`: what containers use, in the guest as it says, and on the host as it is.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    thread,
    time::Duration,
};

use clap::Args;
use engine::{
    ContainerFilters, Engine, Error, StateError, Stats,
    keeper::wire::{GuestUsage, HostUsage},
    names::short_id,
    quantity::human_decimal,
};

use crate::{
    images::flags::FormatFlag,
    output::{
        format::{self, Fields, ListFormat, Row},
        table::binary_size,
    },
};

/// From one look to the next.
const INTERVAL: Duration = Duration::from_secs(1);

const FIELDS: Fields = Fields(&[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
    ("HostMem", "HOST MEM"),
    ("HostCPUPerc", "HOST CPU %"),
]);

const COLUMNS: [&str; 10] =
    ["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs", "HostMem", "HostCPUPerc"];

#[derive(Debug, Args)]
#[command(
    override_usage = "[OPTIONS] [CONTAINER...]",
    after_help = "HOST MEM is what the host pays for the container: the memory of its machine and its keeper, what is \
                  shared with others in proportion. The other columns are what the guest says of itself."
)]
pub(crate) struct StatsFlags {
    /// Names or ids; all that run if none is given
    #[arg(value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
    /// Also those that do not run
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Look once
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    #[command(flatten)]
    pub(crate) format: FormatFlag,
}

/// Shows what containers use: again and again, unless once is enough. On a terminal a table is painted over the last.
pub(crate) fn stats(engine: &Engine, flags: &StatsFlags) -> anyhow::Result<()> {
    for name in &flags.containers {
        engine.container(name)?;
    }
    let repaints = !flags.no_stream && io::stdout().is_terminal() && is_table(&flags.format.format);
    let mut before = look(engine, flags)?;
    loop {
        thread::sleep(INTERVAL);
        let now = look(engine, flags)?;
        let rows: Vec<Row> = now.values().map(|stats| row(stats, before.get(&stats.id), flags)).collect();
        let mut text = Vec::new();
        format::write_list(&mut text, &flags.format.format, FIELDS, &COLUMNS, &rows)?;
        let mut out = io::stdout().lock();
        if repaints {
            out.write_all(b"\x1b[H\x1b[J")?;
        }
        out.write_all(&text)?;
        out.flush()?;
        if flags.no_stream || (!flags.containers.is_empty() && now.values().all(|stats| !stats.live)) {
            return Ok(());
        }
        before = now;
    }
}

fn is_table(format: &ListFormat) -> bool {
    matches!(format, ListFormat::Table | ListFormat::Columns(_))
}

/// What all containers use that are asked for, by their ids.
fn look(engine: &Engine, flags: &StatsFlags) -> anyhow::Result<BTreeMap<String, Stats>> {
    let names: Vec<String> = if flags.containers.is_empty() {
        let filters = ContainerFilters { all: flags.all, ..ContainerFilters::default() };
        engine.containers_matching(&filters)?.into_iter().map(|record| record.id).collect()
    } else {
        flags.containers.clone()
    };
    let mut found = BTreeMap::new();
    for name in names {
        match engine.stats(&name) {
            Ok(stats) => drop(found.insert(stats.id.clone(), stats)),
            // It went away meanwhile.
            Err(Error::State(StateError::NoSuchContainer { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// What stands where nothing is known.
const UNKNOWN: &str = "--";

/// A container's row; what it used a moment before tells how busy it is.
fn row(stats: &Stats, before: Option<&Stats>, flags: &StatsFlags) -> Row {
    let id = if flags.no_trunc { &stats.id } else { short_id(&stats.id) };
    let asked = flags.containers.iter().find(|name| **name == stats.name || stats.id.starts_with(&**name));
    let before = before.filter(|before| before.live && stats.live);
    let elapsed = before.map(|before| stats.usage.at.saturating_sub(before.usage.at));
    let share = |now: u64, then: Option<u64>| match (elapsed, then) {
        (Some(elapsed), Some(then)) if elapsed > 0 => percent(now.saturating_sub(then), elapsed),
        _ => UNKNOWN.to_owned(),
    };
    let guest = stats.usage.guest.as_ref();
    let of_guest = |text: &dyn Fn(&GuestUsage) -> String| guest.map_or_else(|| UNKNOWN.to_owned(), text);
    let host_cpu = |stats: &Stats| stats.usage.machine.cpu_ns + stats.usage.keeper.cpu_ns;
    let host = |of: fn(&HostUsage) -> u64| of(&stats.usage.machine) + of(&stats.usage.keeper);
    Row::new([
        ("Container", asked.map_or(id, |name| name).into()),
        ("ID", id.into()),
        ("Name", stats.name.as_str().into()),
        ("CPUPerc", of_guest(&|guest| share(guest.cpu_ns, guest_of(before).map(|guest| guest.cpu_ns))).into()),
        (
            "MemUsage",
            of_guest(&|guest| format!("{} / {}", binary_size(used(guest)), binary_size(stats.memory_limit))).into(),
        ),
        ("MemPerc", of_guest(&|guest| percent(used(guest), stats.memory_limit)).into()),
        ("NetIO", of_guest(&|guest| both(guest.net_received, guest.net_sent)).into()),
        ("BlockIO", of_guest(&|guest| both(guest.block_read, guest.block_written)).into()),
        ("PIDs", of_guest(&|guest| guest.pids.to_string()).into()),
        ("HostMem", if stats.live { binary_size(host(|of| of.pss)) } else { UNKNOWN.to_owned() }.into()),
        ("HostCPUPerc", share(host_cpu(stats), before.map(host_cpu)).into()),
    ])
}

fn guest_of(stats: Option<&Stats>) -> Option<&GuestUsage> {
    stats?.usage.guest.as_ref()
}

/// Memory that is in use: what was read of files and could go at once does not count, as with Docker.
fn used(guest: &GuestUsage) -> u64 {
    guest.memory.saturating_sub(guest.memory_inactive_file)
}

fn both(one: u64, other: u64) -> String {
    format!("{} / {}", human_decimal(one), human_decimal(other))
}

/// `part` of `whole`, as `12.34%`.
fn percent(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part) * 10_000 / u128::from(whole.max(1));
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use engine::keeper::wire::Usage;

    use super::*;

    fn stats(at: u64, cpu_ns: u64) -> Stats {
        let guest = GuestUsage {
            memory: 4 << 19,
            memory_inactive_file: 1 << 19,
            cpu_ns,
            pids: 2,
            block_read: 4096,
            ..GuestUsage::default()
        };
        let machine = HostUsage { pss: 40 << 20, cpu_ns: cpu_ns * 2, ..HostUsage::default() };
        let keeper = HostUsage { pss: 1 << 20, ..HostUsage::default() };
        let usage = Usage { guest: Some(guest), machine, keeper, at };
        Stats {
            id: "0123456789abcdef".into(),
            name: "web".into(),
            live: true,
            vcpus: 1,
            memory_limit: 1 << 30,
            pids_limit: None,
            usage,
        }
    }

    fn flags() -> StatsFlags {
        StatsFlags {
            containers: vec!["web".into()],
            all: false,
            no_stream: true,
            no_trunc: false,
            format: FormatFlag { format: ListFormat::Json },
        }
    }

    #[test]
    fn guest_and_host_apart() {
        let row = row(&stats(2_000_000_000, 750_000_000), Some(&stats(1_000_000_000, 500_000_000)), &flags());
        let found = row.into_value();
        for (field, expected) in [
            ("Container", "web"),
            ("ID", "0123456789ab"),
            ("CPUPerc", "25.00%"),
            ("MemUsage", "1.5MiB / 1GiB"),
            ("MemPerc", "0.14%"),
            ("BlockIO", "4.1kB / 0B"),
            ("PIDs", "2"),
            ("HostMem", "41MiB"),
            ("HostCPUPerc", "50.00%"),
        ] {
            assert_eq!(found[field], expected, "{field}");
        }
    }

    #[test]
    fn what_does_not_run_uses_nothing() {
        let mut ended = stats(0, 0);
        (ended.live, ended.usage) = (false, Usage::default());
        let found = row(&ended, Some(&stats(0, 0)), &flags()).into_value();
        assert_eq!((found["CPUPerc"].as_str(), found["HostMem"].as_str()), (Some("--"), Some("--")));
    }
}
