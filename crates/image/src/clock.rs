//! Moments as configurations write them (RFC 3339), and as we count them (ns since 1970).

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Now.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The moment that a text means; `None` where it means none, or one that cannot be counted.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let moment: Timestamp = text.parse().ok()?;
    i64::try_from(moment.as_nanosecond()).ok()
}

/// As configurations write it.
pub(crate) fn rfc3339(moment: i64) -> String {
    Timestamp::from_nanosecond(i128::from(moment)).map(|moment| moment.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        assert_eq!(parse("1970-01-01T00:00:01.5Z"), Some(1_500_000_000));
        for text in ["", "yesterday", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("1970-01-01T01:00:02+01:00"), Some(2_000_000_000));
        assert_eq!(rfc3339(2_000_000_000), "1970-01-01T00:00:02Z");
        let now = now();
        assert_eq!(parse(&rfc3339(now)), Some(now));
    }
}
