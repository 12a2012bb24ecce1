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

#[derive(Deserialize)]
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

/// What all records of one moment and stream end with.
#[derive(Debug)]
pub(crate) struct Stamp(String);

impl Stamp {
    pub(crate) fn new(stream: Stream, nanoseconds: i64) -> Self {
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        Self(format!("\",\"stream\":\"{stream}\",\"time\":\"{}\"}}\n", format_time(nanoseconds)))
    }
}

/// Appends the line of a record: by hand, for this is the way of every byte that a container writes.
pub(crate) fn encode(stamp: &Stamp, output: &[u8], line: &mut Vec<u8>) {
    line.extend_from_slice(b"{\"log\":\"");
    if std::str::from_utf8(output).is_ok() {
        escape(output, line);
    } else {
        escape(String::from_utf8_lossy(output).as_bytes(), line);
    }
    line.extend_from_slice(stamp.0.as_bytes());
}

/// Appends text as it stands in a string of JSON (RFC 8259, section 7).
fn escape(mut text: &[u8], line: &mut Vec<u8>) {
    loop {
        let (plain, rest) = text.split_at(plain_length(text));
        line.extend_from_slice(plain);
        let Some((&byte, rest)) = rest.split_first() else { return };
        match byte {
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\t' => line.extend_from_slice(b"\\t"),
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
            _ => {
                let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
                line.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 0xf)]);
            }
        }
        text = rest;
    }
}

/// How many bytes stand for themselves, block by block: the compiler looks at a whole one at once.
fn plain_length(text: &[u8]) -> usize {
    const BLOCK: usize = 32;
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    let all_plain = |block: &&[u8]| block.iter().fold(true, |all, &byte| all & is_plain(byte));
    let blocks = text.chunks_exact(BLOCK).take_while(all_plain).count() * BLOCK;
    blocks + text[blocks..].iter().take_while(|&&byte| is_plain(byte)).count()
}

/// A moment as records spell it.
fn format_time(nanoseconds: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).map_or_else(|_| String::new(), |t| format!("{t:.9}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_format_is_dockers() {
        let mut line = Vec::new();
        encode(&Stamp::new(Stream::Stdout, 1_767_323_045_678_901_234), b"a\t\"b\"\x1b\xff\n", &mut line);
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

    proptest! {
        #[test]
        fn text_is_escaped_and_read_again(text in "([ -~]{0,70}|[\\x00-\\x7f]{0,9}|\\PC){0,9}") {
            let mut line = Vec::new();
            encode(&Stamp::new(Stream::Stderr, 0), text.as_bytes(), &mut line);
            prop_assert!(line[..line.len() - 1].iter().all(|&byte| byte >= b' '));
            prop_assert_eq!(Record::parse(&line), Some(Record { stream: Stream::Stderr, time: 0, text }));
        }
    }

    #[test]
    fn what_is_no_record() {
        for text in ["", "{", "null", "{}", r#"{"log":"x","stream":"stdin","time":"2026-01-02T03:04:05Z"}"#] {
            assert_eq!(Record::parse(text.as_bytes()), None);
        }
        assert_eq!(Record::parse(br#"{"log":"x","stream":"stdout","time":"yesterday"}"#), None);
    }
}
