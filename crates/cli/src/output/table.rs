//! Lists as text: columns, and how long ago something was, as Docker writes them.

use std::io::{self, Write};

/// Columns are as wide as their widest cell, three spaces apart; the last is not padded. Control characters, which
/// names and histories of images may hold, are written as escapes, so that none reaches the terminal.
pub(crate) fn write(out: &mut dyn Write, header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let header = header.iter().map(|cell| (*cell).to_owned()).collect();
    let visible = |row: &Vec<String>| row.iter().map(|cell| visible(cell)).collect();
    let lines: Vec<Vec<String>> = std::iter::once(header).chain(rows.iter().map(visible)).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for cells in &lines {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}   "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// `text` with its control characters as escapes.
pub(crate) fn visible(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Seconds as people say them.
pub(crate) fn duration(seconds: u64) -> String {
    let count = |number: u64, unit: &str| format!("{number} {unit}");
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => count(seconds, "seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => count(seconds / 60, "minutes"),
        3600..7200 => "About an hour".to_owned(),
        7200..172_800 => count(seconds / 3600, "hours"),
        172_800..1_209_600 => count(seconds / 86_400, "days"),
        1_209_600..5_184_000 => count(seconds / 604_800, "weeks"),
        5_184_000..63_072_000 => count(seconds / 2_592_000, "months"),
        _ => count(seconds / 31_536_000, "years"),
    }
}

/// How long before `now` a moment was; both in nanoseconds since 1970.
pub(crate) fn since(moment: i64, now: i64) -> String {
    duration(u64::try_from(now.saturating_sub(moment)).unwrap_or(0) / 1_000_000_000)
}

/// A moment as RFC 3339 has it, in nanoseconds since 1970.
pub(crate) fn moment(text: &str) -> Option<i64> {
    i64::try_from(text.parse::<jiff::Timestamp>().ok()?.as_nanosecond()).ok()
}

/// A moment as Docker writes it, in this place's time: `2026-11-23 21:09:00 +0000 UTC`.
pub(crate) fn local_time(moment: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(moment)).map_or_else(
        |_| "N/A".to_owned(),
        |time| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string(),
    )
}

/// Bytes in powers of 1024, with at most four digits, as Docker writes memory: `1.5MiB`, `1GiB`.
pub(crate) fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let unit = (0..UNITS.len() - 1).find(|unit| bytes >> (10 * unit) < 1024).unwrap_or(UNITS.len() - 1);
    let size = 1_u128 << (10 * unit);
    let whole = u128::from(bytes) / size;
    // Four significant digits.
    let scale = match whole {
        0..10 => 1000,
        10..100 => 100,
        100..1000 => 10,
        _ => 1,
    };
    let rounded = (u128::from(bytes) * scale + size / 2) / size;
    let (whole, fraction) = (rounded / scale, rounded % scale);
    if fraction == 0 {
        return format!("{whole}{}", UNITS[unit]);
    }
    let width = scale.ilog10() as usize;
    format!("{whole}.{}{}", format!("{fraction:0width$}").trim_end_matches('0'), UNITS[unit])
}

/// `text` in at most `length` characters.
pub(crate) fn shorten(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let mut out = Vec::new();
        let rows = [vec!["a".to_owned(), "long cell".to_owned(), "x".to_owned()]];
        write(&mut out, &["ONE", "TWO", "THREE"], &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "ONE   TWO         THREE\na     long cell   x\n");
    }

    #[test]
    fn durations_as_docker_says_them() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (10_800, "3 hours"),
            (259_200, "3 days"),
            (2_000_000, "3 weeks"),
            (10_000_000, "3 months"),
            (100_000_000, "3 years"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(since(0, 5_000_000_000), "5 seconds");
        assert_eq!(since(5, 0), "Less than a second");
    }

    #[test]
    fn sizes_of_memory() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (3 << 19, "1.5MiB"),
            (1_234_567, "1.177MiB"),
            (1 << 30, "1GiB"),
            (123_456_789, "117.7MiB"),
            (u64::MAX, "16384PiB"),
        ] {
            assert_eq!(binary_size(bytes), text);
        }
    }

    #[test]
    fn shortening() {
        assert_eq!(shorten("short", 5), "short");
        assert_eq!(shorten("longer", 5), "long…");
    }
}
