//! `coracle logs`.

use std::io::{self, BufWriter, Write};

use clap::Args;
use engine::{
    Engine,
    logs::{LogsOptions, Record, Stream},
    process::wall_clock_ns,
};

use crate::{
    moments::moment,
    output::report::{self, Refusal},
};

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] CONTAINER")]
pub(crate) struct LogsFlags {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    /// Go on until it has ended
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "N|all", default_value = "all", allow_hyphen_values = true)]
    pub(crate) tail: Tail,
    /// Only what came since then, as in 10m, 2026-11-23T12:00:00Z or seconds since 1970
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only what came until then
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Show when each line came
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Show what the log's options add; they add nothing here
    #[arg(long, hide = true)]
    pub(crate) details: bool,
}

/// How many lines; `None` is all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail(Option<u64>);

/// A text that is no number of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tail is a number of lines, or all")]
pub(crate) struct NoTail;

impl std::str::FromStr for Tail {
    type Err = NoTail;

    /// A number below 0 is all, as with Docker.
    fn from_str(text: &str) -> Result<Self, NoTail> {
        match text {
            "" | "all" => Ok(Self(None)),
            text => Ok(Self(u64::try_from(text.parse::<i64>().map_err(|_| NoTail)?).ok())),
        }
    }
}

pub(crate) fn logs(engine: &Engine, flags: &LogsFlags) -> anyhow::Result<()> {
    let now = wall_clock_ns();
    let options = LogsOptions {
        follow: flags.follow,
        tail: flags.tail.0,
        since: flags.since.as_deref().map(|text| time("since", text, now)).transpose()?,
        until: flags.until.as_deref().map(|text| time("until", text, now)).transpose()?,
    };
    let mut sinks = Sinks::of_process(flags.timestamps, flags.follow);
    for record in engine.logs(&flags.container, &options)? {
        sinks.write(&record?).map_err(report::own_pipe)?;
    }
    sinks.flush().map_err(report::own_pipe)
}

/// The moment that a flag names.
pub(crate) fn time(flag: &str, text: &str, now: i64) -> Result<i64, Refusal> {
    moment(text, now).ok_or_else(|| {
        let hint = "write how long ago, as in 10m or 1h30m, or when, as in 2026-11-23 or 2026-11-23T12:00:00Z";
        Refusal::new(format!("--{flag} {text} is no moment"), hint)
    })
}

/// Standard output and error, each for what came from the process's own.
struct Sinks<O: Write, E: Write> {
    stdout: BufWriter<O>,
    stderr: BufWriter<E>,
    last: Stream,
    timestamps: bool,
    /// Each record is to be seen at once.
    at_once: bool,
    /// Whether a line goes on, so that no time is written before its next part.
    in_line: [bool; 2],
}

impl Sinks<io::Stdout, io::Stderr> {
    fn of_process(timestamps: bool, at_once: bool) -> Self {
        Self::new(io::stdout(), io::stderr(), timestamps, at_once)
    }
}

impl<O: Write, E: Write> Sinks<O, E> {
    fn new(stdout: O, stderr: E, timestamps: bool, at_once: bool) -> Self {
        let (stdout, stderr) = (BufWriter::new(stdout), BufWriter::new(stderr));
        Self { stdout, stderr, last: Stream::Stdout, timestamps, at_once, in_line: [false; 2] }
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        if record.stream != self.last {
            // Where both are one terminal, their order is that of the log.
            self.flush()?;
            self.last = record.stream;
        }
        let is_error = record.stream == Stream::Stderr;
        let out: &mut dyn Write = if is_error { &mut self.stderr } else { &mut self.stdout };
        let in_line = &mut self.in_line[usize::from(is_error)];
        if self.timestamps && !*in_line {
            write!(out, "{} ", timestamp(record.time))?;
        }
        out.write_all(record.text.as_bytes())?;
        *in_line = record.is_partial();
        if self.at_once { out.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()?;
        self.stderr.flush()
    }
}

/// As RFC 3339 has it, with nine digits behind the seconds.
fn timestamp(time: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time)).map(|time| format!("{time:.9}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails() {
        for (text, expected) in [("all", None), ("", None), ("-1", None), ("0", Some(0)), ("12", Some(12))] {
            assert_eq!(text.parse(), Ok(Tail(expected)), "{text}");
        }
        assert_eq!("few".parse::<Tail>(), Err(NoTail));
    }

    #[test]
    fn streams_stay_apart_and_lines_whole() {
        let record = |stream, text: &str| Record { stream, time: 1_500_000_000, text: text.to_owned() };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut sinks = Sinks::new(&mut stdout, &mut stderr, true, false);
        for (stream, text) in
            [(Stream::Stdout, "a"), (Stream::Stderr, "err\n"), (Stream::Stdout, "b\n"), (Stream::Stdout, "c\n")]
        {
            sinks.write(&record(stream, text)).unwrap();
        }
        sinks.flush().unwrap();
        drop(sinks);
        let time = "1970-01-01T00:00:01.500000000Z";
        assert_eq!(String::from_utf8(stdout).unwrap(), format!("{time} ab\n{time} c\n"));
        assert_eq!(String::from_utf8(stderr).unwrap(), format!("{time} err\n"));
    }
}
