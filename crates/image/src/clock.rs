//! Moments as configurations write them (RFC 3339), and as we count them (ns since 1970).

use jiff::Timestamp;

/// The moment that a text means; `None` where it means none, or one that cannot be counted.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let moment: Timestamp = text.parse().ok()?;
    i64::try_from(moment.as_nanosecond()).ok()
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
    }
}
