//! Where the time of a run went: moments on one clock, `CLOCK_MONOTONIC`, which all processes of a host share.

use serde::{Deserialize, Serialize};

/// `CLOCK_MONOTONIC` now, nanoseconds.
#[must_use]
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanoseconds = |n: i64| u64::try_from(n).unwrap_or(0);
    nanoseconds(time.tv_sec) * 1_000_000_000 + nanoseconds(time.tv_nsec)
}

/// The moments of one run, in nanoseconds of `CLOCK_MONOTONIC`. What did not happen is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// The command line began.
    pub begun: u64,
    /// The request was resolved against the image.
    pub planned: Option<u64>,
    /// Root device and scratch disk were there.
    pub disks: Option<u64>,
    /// The machine's vCPUs started.
    pub machine: Option<u64>,
    /// Guest init began to run, by the guest's own clock laid over the host's.
    pub init: Option<u64>,
    /// Guest init had set the container up.
    pub created: Option<u64>,
    /// The process ran.
    pub spawned: Option<u64>,
    /// Its first byte of output arrived at the keeper.
    pub first_byte: Option<u64>,
    /// Its end was known.
    pub exited: Option<u64>,
    /// The machine was gone.
    pub ended: Option<u64>,
}

/// A row of the table that `--timings` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// What took the time.
    pub phase: &'static str,
    /// Nanoseconds that it took.
    pub took: u64,
    /// Nanoseconds from the beginning to its end.
    pub at: u64,
}

impl Timings {
    /// The phases that happened, in order. Each runs from the end of the one before it, except that output
    /// and exit both count from the moment the process ran.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut last = self.begun;
        let phases = [
            ("plan", self.planned),
            ("disks", self.disks),
            ("machine process", self.machine),
            ("kernel", self.init),
            ("guest init", self.created),
            ("spawn", self.spawned),
        ];
        for (phase, end) in phases {
            if let Some(end) = end {
                rows.push(self.row(phase, last, end));
                last = end.max(last);
            }
        }
        for (phase, end) in [("first byte", self.first_byte), ("exit", self.exited)] {
            rows.extend(end.map(|end| self.row(phase, last, end)));
        }
        if let Some(ended) = self.ended {
            rows.push(self.row("machine end", self.exited.unwrap_or(last), ended));
        }
        rows
    }

    fn row(&self, phase: &'static str, from: u64, to: u64) -> Row {
        Row { phase, took: to.saturating_sub(from), at: to.saturating_sub(self.begun) }
    }

    /// The rows as text: a phase, what it took and when it was over, in milliseconds.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = format!("{:<16}{:>12}{:>12}\n", "phase", "took ms", "at ms");
        for Row { phase, took, at } in self.rows() {
            table.push_str(&format!("{phase:<16}{:>12}{:>12}\n", milliseconds(took), milliseconds(at)));
        }
        table
    }
}

fn milliseconds(nanoseconds: u64) -> String {
    let hundredths = (nanoseconds + 5_000) / 10_000;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn table_of_a_whole_run() {
        let timings = Timings {
            begun: 1000 * MS,
            planned: Some(1001 * MS),
            disks: Some(1001 * MS + 500_000),
            machine: Some(1010 * MS),
            init: Some(1060 * MS),
            created: Some(1065 * MS),
            spawned: Some(1067 * MS),
            first_byte: Some(1068 * MS),
            exited: Some(1070 * MS),
            ended: Some(1075 * MS),
        };
        let expected = "\
phase                took ms       at ms
plan                    1.00        1.00
disks                   0.50        1.50
machine process         8.50       10.00
kernel                 50.00       60.00
guest init              5.00       65.00
spawn                   2.00       67.00
first byte              1.00       68.00
exit                    3.00       70.00
machine end             5.00       75.00
";
        assert_eq!(timings.table(), expected);
    }

    #[test]
    fn what_did_not_happen_has_no_row() {
        let timings = Timings { begun: 5, planned: Some(6), ended: Some(9), ..Timings::default() };
        let phases: Vec<_> = timings.rows().iter().map(|row| (row.phase, row.took)).collect();
        assert_eq!(phases, [("plan", 1), ("machine end", 3)]);
    }

    #[test]
    fn clock_moves() {
        assert!(now() > 0 && now() <= now());
    }
}
