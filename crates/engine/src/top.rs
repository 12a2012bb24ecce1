//! What runs in a container.

use crate::{Engine, error::Error, keeper::wire::ProcessRow, process::wall_clock_ns};

/// A table of processes, as `ps -ef` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Top {
    /// Titles of the columns.
    pub titles: Vec<String>,
    /// A process each.
    pub rows: Vec<Vec<String>>,
}

impl Engine {
    /// The processes of a container, with the pids that they have in it.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], [`Error::Paused`], [`Error::Refused`], [`Error::Keeper`].
    pub fn top(&self, name: &str) -> Result<Top, Error> {
        let (_, connection) = self.reach_running(name)?;
        let now = wall_clock_ns();
        let mut processes = connection.processes()?;
        processes.sort_by_key(|process| process.pid);
        let titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"].map(str::to_owned).to_vec();
        Ok(Top { titles, rows: processes.iter().map(|process| row(process, now)).collect() })
    }
}

fn row(process: &ProcessRow, now: i64) -> Vec<String> {
    let seconds = process.cpu_ns / 1_000_000_000;
    let lived = u64::try_from(now.saturating_sub(process.started_at)).unwrap_or(0).max(1);
    let share = process.cpu_ns.saturating_mul(100) / lived;
    vec![
        process.user.clone().unwrap_or_else(|| process.uid.to_string()),
        process.pid.to_string(),
        process.ppid.to_string(),
        share.min(99).to_string(),
        started(process.started_at, now),
        if process.tty.is_empty() { "?".to_owned() } else { process.tty.clone() },
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        command(&process.command),
    ]
}

/// The time of day of what started today, the day of what did before.
fn started(at: i64, now: i64) -> String {
    let zoned = |ns: i64| {
        let time = jiff::Timestamp::from_nanosecond(i128::from(ns)).ok()?;
        Some(time.to_zoned(jiff::tz::TimeZone::system()))
    };
    let Some((at, now)) = zoned(at).zip(zoned(now)) else { return "?".to_owned() };
    at.strftime(if at.date() == now.date() { "%H:%M" } else { "%b%d" }).to_string()
}

/// Arguments with blanks between them. What a terminal would act upon is shown as a question mark.
fn command(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\0');
    text.chars()
        .map(|c| {
            if c == '\0' {
                ' '
            } else if c.is_control() {
                '?'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_a_row() {
        let hour = 3_600_000_000_000;
        let process = ProcessRow {
            pid: 7,
            ppid: 1,
            uid: 33,
            user: Some("www".into()),
            state: 'S',
            cpu_ns: 3_725_000_000_000,
            rss: 5,
            started_at: 1_000 * hour,
            tty: String::new(),
            command: b"sh\0-c\0a\x1b[2Jb\0".to_vec(),
        };
        let row = row(&process, 1_002 * hour);
        assert_eq!(row[..4], ["www", "7", "1", "51"]);
        assert_eq!(row[5..], ["?", "01:02:05", "sh -c a?[2Jb"]);
        let nobody = ProcessRow { user: None, ..process };
        assert_eq!(super::row(&nobody, i64::MAX)[0], "33");
    }
}
