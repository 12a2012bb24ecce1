//! `Content-Range` (RFC 9110, section 14.4), and the `Range` of uploads.

/// What a part of a blob is of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentRange {
    /// Bytes `start..=end` of `total`, where that is said.
    Part { start: u64, end: u64, total: Option<u64> },
    /// None of what was asked for; there are `total`.
    Unsatisfied { total: u64 },
}

/// `bytes 0-9/100`, `bytes 0-9/*`, `bytes */100`. `None` for anything else, and for ranges that contradict themselves.
pub(crate) fn parse(text: &str) -> Option<ContentRange> {
    let rest = text.trim().strip_prefix("bytes")?.strip_prefix([' ', '\t'])?.trim();
    let (range, total) = rest.split_once('/')?;
    if range == "*" {
        return Some(ContentRange::Unsatisfied { total: number(total)? });
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (number(start)?, number(end)?);
    let total = if total == "*" { None } else { Some(number(total)?) };
    (start <= end && total.is_none_or(|total| end < total)).then_some(ContentRange::Part { start, end, total })
}

/// How many bytes of an upload a registry has: `0-9` (distribution-spec, "Pushing a blob in chunks"; some write
/// `bytes=0-9`). An upload with none is `0-0`, `0--1` or has no range, so that one byte and none cannot be told apart.
pub(crate) fn received(text: &str) -> Option<u64> {
    let range = text.trim();
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let end = range.strip_prefix("0-")?;
    if end == "-1" { Some(0) } else { number(end)?.checked_add(1) }
}

/// Digits alone: `parse` takes a sign.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_or_refused() {
        let part = |start, end, total| Some(ContentRange::Part { start, end, total });
        let cases = [
            ("bytes 0-9/100", part(0, 9, Some(100))),
            (" bytes 5-5/6 ", part(5, 5, Some(6))),
            ("bytes 5-9/*", part(5, 9, None)),
            ("bytes */100", Some(ContentRange::Unsatisfied { total: 100 })),
            ("bytes 9-5/100", None),
            ("bytes 0-100/100", None),
            ("bytes */*", None),
            ("bytes 0-9", None),
            ("bytes=0-9/100", None),
            ("items 0-9/100", None),
            ("bytes +0-9/100", None),
            ("bytes -1-9/100", None),
            ("bytes 0-18446744073709551616/*", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn uploads_say_how_much_is_there() {
        let cases = [("0-9", Some(10)), ("bytes=0-9", Some(10)), ("0-0", Some(1)), ("0--1", Some(0)), ("1-9", None)];
        for (text, expected) in cases {
            assert_eq!(received(text), expected, "{text:?}");
        }
        assert_eq!(received("0-18446744073709551615"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            let _ = (parse(&text), received(&text));
        }

        #[test]
        fn what_is_right_comes_back(start in 0_u64..1 << 40, length in 1_u64..1 << 40, more in 0_u64..1 << 40) {
            let end = start + length - 1;
            let total = end + 1 + more;
            let expected = Some(ContentRange::Part { start, end, total: Some(total) });
            prop_assert_eq!(parse(&format!("bytes {start}-{end}/{total}")), expected);
        }
    }
}
