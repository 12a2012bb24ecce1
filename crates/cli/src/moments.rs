//! Moments and spans of time as people write them: `1h30m`, `2026-11-23T12:00:00Z`, `1763899200.5`.

use std::time::Duration;

use jiff::{Timestamp, civil, tz::TimeZone};

/// A moment in nanoseconds since 1970: so long before now (`1h30m`), a date with or without a time and a zone, or
/// seconds since 1970, with a fraction or without.
pub(crate) fn moment(text: &str, now: i64) -> Option<i64> {
    if let Some(ago) = duration(text) {
        return now.checked_sub(i64::try_from(ago.as_nanos()).ok()?);
    }
    if let Some(moment) = seconds(text) {
        return Some(moment);
    }
    let zone = TimeZone::system();
    let timestamp = if let Ok(timestamp) = text.parse::<Timestamp>() {
        timestamp
    } else if let Ok(time) = text.parse::<civil::DateTime>() {
        time.to_zoned(zone).ok()?.timestamp()
    } else {
        text.parse::<civil::Date>().ok()?.to_zoned(zone).ok()?.timestamp()
    };
    i64::try_from(timestamp.as_nanosecond()).ok()
}

/// Seconds since 1970 in nanoseconds.
fn seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let (sign, whole) = whole.strip_prefix('-').map_or((1, whole), |whole| (-1, whole));
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let fraction: i64 = format!("{fraction:0<9}").parse().ok()?;
    let whole = whole.parse::<i64>().ok()?.checked_mul(1_000_000_000)?;
    whole.checked_add(fraction)?.checked_mul(sign)
}

/// `1h30m`, `1.5s`, `500ms`: as Go writes durations, and days and weeks beside.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut total: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|&at| at > 0)?;
        let (number, behind) = rest.split_at(unit_at);
        let unit_end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_end);
        total = total.checked_add(scaled(number, nanoseconds(unit)?)?)?;
        rest = behind;
    }
    let limit = u128::try_from(i64::MAX).ok()?;
    let total = Some(total).filter(|total| !text.is_empty() && *total <= limit)?;
    Some(Duration::from_nanos(u64::try_from(total).ok()?))
}

fn nanoseconds(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        "w" => 604_800_000_000_000,
        _ => return None,
    })
}

/// `number`, which may have a fraction, of so many nanoseconds.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(fraction) {
        return None;
    }
    let value = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u64>().ok().map(u128::from) };
    let fraction = &fraction[..fraction.len().min(15)];
    let scale = fraction.bytes().fold(1_u128, |scale, _| scale * 10);
    (value(whole)?.checked_mul(unit)?).checked_add(value(fraction)?.checked_mul(unit)? / scale)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn moments() {
        let now = 1_000_000 * SECOND;
        assert_eq!(moment("10m", now), Some(now - 600 * SECOND));
        assert_eq!(moment("2d1h", now), Some(now - (2 * 86_400 + 3600) * SECOND));
        assert_eq!(moment("1970-01-02T00:00:00Z", now), Some(86_400 * SECOND));
        assert_eq!(moment("1970-01-02T01:00:00.5+01:00", now), Some(86_400 * SECOND + SECOND / 2));
        assert_eq!(moment("60", now), Some(60 * SECOND));
        assert_eq!(moment("60.000000001", now), Some(60 * SECOND + 1));
        assert!(moment("1970-01-02", now).is_some() && moment("1970-01-02T03:00:00", now).is_some());
        for text in ["", "soon", "60.", ".5", "1.2.3", "99999999999999999999"] {
            assert_eq!(moment(text, now), None, "{text}");
        }
    }

    #[test]
    fn durations() {
        let milliseconds = |n| Some(Duration::from_millis(n));
        for (text, expected) in
            [("1h30m", 5_400_000), ("1.5s", 1500), ("500ms", 500), (".5s", 500), ("1m1ms", 60_001), ("0s", 0)]
        {
            assert_eq!(duration(text), milliseconds(expected), "{text}");
        }
        assert_eq!(duration("3us"), Some(Duration::from_micros(3)));
        for text in ["", "h", "1", "10x", "-5m", "99999999999h", "m10", ".s", "1..5s", "1 s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_moment_or_none(text in "\\PC{0,24}", now: i64) {
            let _ = moment(&text, now);
        }
    }
}
