//! A record and its line.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line of output, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it came from.
    pub stream: Stream,
    /// When its end was read, in ns since 1970.
    pub time: i64,
    /// The text, with its newline if it has one.
    pub text: String,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    stream: Stream,
    #[serde(borrow)]
    time: Cow<'a, str>,
}

impl Record {
    /// Whether the line goes on in the next record of the same stream, or never ended.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.text.ends_with('\n')
    }

    /// The record in a line. `None`: it is none.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        let time: jiff::Timestamp = line.time.parse().ok()?;
        let time = i64::try_from(time.as_nanosecond()).ok()?;
        Some(Self { stream: line.stream, time, text: line.log.into_owned() })
    }
}

/// Appends the line of a record.
pub(crate) fn encode(stream: Stream, time: &str, output: &[u8], line: &mut Vec<u8>) {
    let record = Line { log: String::from_utf8_lossy(output), stream, time: Cow::Borrowed(time) };
    // Writing into memory does not fail, and neither does text.
    let _ = serde_json::to_writer(&mut *line, &record);
    line.push(b'\n');
}

/// A moment as records spell it.
pub(crate) fn format_time(nanoseconds: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).map_or_else(|_| String::new(), |t| format!("{t:.9}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_dockers() {
        let mut line = Vec::new();
        encode(Stream::Stdout, &format_time(1_767_323_045_678_901_234), b"a\t\"b\"\x1b\xff\n", &mut line);
        let expected = concat!(
            r#"{"log":"a\t\"b\"\u001b"#,
            "\u{fffd}",
            r#"\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z"}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(line.clone()).unwrap(), expected);
        let record = Record::parse(&line).unwrap();
        assert_eq!(record.time, 1_767_323_045_678_901_234);
        assert_eq!((record.stream, record.text.as_str()), (Stream::Stdout, "a\t\"b\"\u{1b}\u{fffd}\n"));
        assert!(!record.is_partial());
    }

    #[test]
    fn what_is_no_record() {
        for text in ["", "{", "null", "{}", r#"{"log":"x","stream":"stdin","time":"2026-01-02T03:04:05Z"}"#] {
            assert_eq!(Record::parse(text.as_bytes()), None);
        }
        assert_eq!(Record::parse(br#"{"log":"x","stream":"stdout","time":"yesterday"}"#), None);
    }
}
