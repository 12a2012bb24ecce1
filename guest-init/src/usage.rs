//! What a container uses: files of cgroup v2 and of `/proc`, as numbers.

use std::fs;
use std::path::Path;

use protocol::Usage;

use crate::agent::now;

/// Reads all there is to know about a cgroup. What the kernel does not say is 0.
pub(crate) fn of(cgroup: &Path) -> Usage {
    let read = |name: &str| fs::read_to_string(cgroup.join(name)).unwrap_or_default();
    let number = |name: &str| read(name).trim().parse().ok();
    let (cpu, io) = (read("cpu.stat"), read("io.stat"));
    let (net_received, net_sent) = network(&fs::read_to_string("/proc/net/dev").unwrap_or_default());
    let guest_memory = || {
        let kilobytes = fs::read_to_string("/proc/meminfo").map_or(0, |meminfo| field(&meminfo, "MemTotal:"));
        kilobytes.saturating_mul(1024)
    };
    Usage {
        at: now(),
        memory: number("memory.current").unwrap_or(0),
        memory_inactive_file: field(&read("memory.stat"), "inactive_file"),
        memory_limit: number("memory.max").unwrap_or_else(guest_memory),
        cpu: field(&cpu, "usage_usec"),
        cpu_user: field(&cpu, "user_usec"),
        cpu_system: field(&cpu, "system_usec"),
        cpus: processors(),
        pids: number("pids.current").unwrap_or(0),
        pids_limit: number("pids.max").unwrap_or(0),
        block_read: sum(&io, "rbytes="),
        block_written: sum(&io, "wbytes="),
        net_received,
        net_sent,
    }
}

fn processors() -> u32 {
    let set = rustix::thread::sched_getaffinity(None);
    set.map_or(1, |set| set.count())
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().map(str::split_whitespace);
    let found = lines.find_map(|mut words| (words.next() == Some(name)).then(|| words.next()).flatten());
    found.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The sum of all `name=number` words.
fn sum(text: &str, name: &str) -> u64 {
    let numbers = text.split_whitespace().filter_map(|word| word.strip_prefix(name)?.parse::<u64>().ok());
    numbers.fold(0, u64::saturating_add)
}

/// Bytes received and sent by all interfaces but loopback: `/proc/net/dev`.
fn network(dev: &str) -> (u64, u64) {
    let mut total = (0_u64, 0_u64);
    for (interface, numbers) in dev.lines().filter_map(|line| line.split_once(':')) {
        let numbers: Vec<u64> = numbers.split_whitespace().map(|number| number.parse().unwrap_or(0)).collect();
        if interface.trim() != "lo" {
            total.0 = total.0.saturating_add(numbers.first().copied().unwrap_or(0));
            total.1 = total.1.saturating_add(numbers.get(8).copied().unwrap_or(0));
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_kernel() {
        assert_eq!(field("usage_usec 12\nuser_usec 7\n", "user_usec"), 7);
        assert_eq!((field("", "x"), field("x\n", "x"), field("x y\n", "x")), (0, 0, 0));
        let io = "254:0 rbytes=10 wbytes=1 rios=9\n254:16 rbytes=5 wbytes=2 dbytes=77\n";
        assert_eq!((sum(io, "rbytes="), sum(io, "wbytes=")), (15, 3));
        let dev = "Inter-|   Receive\n face |bytes packets\n    lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  eth0: 100 2 0 0 0 \
                   0 0 0 200 3 0 0 0 0 0 0\n";
        assert_eq!(network(dev), (100, 200));
    }
}
