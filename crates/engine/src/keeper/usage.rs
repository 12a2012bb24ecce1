//! What processes of the host use, from `/proc`.

use std::fs;

use super::wire::HostUsage;

/// What these processes use together. One that is gone uses nothing.
pub(super) fn of(pids: impl IntoIterator<Item = u32>) -> HostUsage {
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let mut usage = HostUsage::default();
    for pid in pids {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        usage.pids.push(pid);
        let rollup = read("smaps_rollup");
        let row = |row| kilobytes(&rollup, row).unwrap_or(0) << 10;
        usage.rss += row("Rss");
        usage.pss += row("Pss");
        usage.private += row("Private_Clean") + row("Private_Dirty");
        usage.cpu_ns += cpu_ticks(&read("stat")).unwrap_or(0).saturating_mul(1_000_000_000 / ticks);
    }
    usage
}

/// A row of `smaps_rollup`.
fn kilobytes(rollup: &str, row: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Fields 14 and 15 of `/proc/PID/stat`: user and system time. The name in field 2 may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_fields() {
        let rollup = "00400000-7ff [rollup]\nRss:    1234 kB\nPss:  17 kB\nPss_Dirty: 3 kB\n";
        assert_eq!((kilobytes(rollup, "Rss"), kilobytes(rollup, "Pss")), (Some(1234), Some(17)));
        assert_eq!(kilobytes(rollup, "Private_Clean"), None);
        assert_eq!(cpu_ticks("7 (a) b) S 1 7 7 0 -1 4 1 0 0 0 30 12 0 0 20 0"), Some(42));
        assert_eq!(cpu_ticks("7 (a) S"), None);
    }

    #[test]
    fn this_process_uses_something_and_a_stranger_nothing() {
        let own = of([std::process::id()]);
        assert!(own.rss > 0 && own.pss > 0 && own.pss <= own.rss && own.private <= own.rss);
        let nobody = of([u32::MAX]);
        assert_eq!((nobody.rss, nobody.cpu_ns), (0, 0));
    }
}
