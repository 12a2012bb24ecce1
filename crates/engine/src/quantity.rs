//! Amounts as people write them: bytes (`512m`, `1.5g`) and CPUs (`0.5`).

use thiserror::Error;

/// Text that is no amount.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// Not a size.
    #[error("invalid size {0:?}: expected a number with an optional unit, as in 512m or 1.5g")]
    Size(String),
    /// A size over 2^63.
    #[error("size {0:?} is too large")]
    SizeTooLarge(String),
    /// Not a number of CPUs.
    #[error("invalid number of CPUs {0:?}: expected a positive number with at most three decimals, as in 2 or 0.5")]
    Cpus(String),
}

/// Bytes in `text`: digits with an optional fraction, then one of `b k m g t p` in either case, optionally
/// followed by `b` or `ib`. Units are powers of 1024, as Docker has them for memory and storage.
///
/// # Errors
///
/// [`QuantityError`] naming the text.
pub fn parse_size(text: &str) -> Result<u64, QuantityError> {
    let invalid = || QuantityError::Size(text.to_owned());
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let shift = unit_shift(unit.trim_start()).ok_or_else(invalid)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
        return Err(invalid());
    }
    let too_large = || QuantityError::SizeTooLarge(text.to_owned());
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let bytes = (u128::from(whole) << shift) + fraction_of(fraction, shift);
    u64::try_from(bytes).ok().filter(|&bytes| i64::try_from(bytes).is_ok()).ok_or_else(too_large)
}

/// log2 of a unit.
fn unit_shift(unit: &str) -> Option<u32> {
    let unit = unit.to_ascii_lowercase();
    let (first, rest) = match unit.chars().next() {
        None => return Some(0),
        Some(first) => (first, &unit[first.len_utf8()..]),
    };
    let shift = match first {
        'b' if rest.is_empty() => return Some(0),
        'k' => 10,
        'm' => 20,
        'g' => 30,
        't' => 40,
        'p' => 50,
        _ => return None,
    };
    matches!(rest, "" | "b" | "ib").then_some(shift)
}

/// `0.digits * 2^shift`, rounded down. Digits beyond the eighteenth cannot matter to a byte.
fn fraction_of(digits: &str, shift: u32) -> u128 {
    let digits = &digits[..digits.len().min(18)];
    let scale = digits.bytes().fold(1_u128, |scale, _| scale * 10);
    let value: u128 = digits.parse().unwrap_or(0);
    (value << shift) / scale
}

/// Thousandths of a CPU in `text`.
///
/// # Errors
///
/// [`QuantityError::Cpus`] when it is not a positive decimal number, or finer than a thousandth.
pub fn parse_cpus(text: &str) -> Result<u32, QuantityError> {
    let invalid = || QuantityError::Cpus(text.to_owned());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let whole = if whole.is_empty() { "0" } else { whole };
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let fraction = fraction.trim_end_matches('0');
    if !digits(whole) || !(fraction.is_empty() || digits(fraction)) || fraction.len() > 3 {
        return Err(invalid());
    }
    let whole: u32 = whole.parse().map_err(|_| invalid())?;
    let fraction: u32 = format!("{fraction:0<3}").parse().map_err(|_| invalid())?;
    let milli = whole.checked_mul(1000).and_then(|milli| milli.checked_add(fraction)).ok_or_else(invalid)?;
    if milli == 0 { Err(invalid()) } else { Ok(milli) }
}

/// `bytes` for people: at most four significant characters and a decimal unit, as Docker prints image sizes.
#[must_use]
pub fn human_decimal(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 0;
    let mut divisor: u64 = 1;
    while unit + 1 < UNITS.len() && bytes / divisor >= 1000 {
        divisor *= 1000;
        unit += 1;
    }
    let whole = bytes / divisor;
    // Three significant digits.
    let decimals: u32 = match (unit, whole) {
        (0, _) | (_, 100..) => 0,
        (_, 10..) => 1,
        _ => 2,
    };
    let scale = u128::from(10_u32.pow(decimals));
    let rounded = (u128::from(bytes) * scale + u128::from(divisor) / 2) / u128::from(divisor);
    let (whole, fraction) = (rounded / scale, rounded % scale);
    if decimals == 0 {
        return format!("{whole}{}", UNITS[unit]);
    }
    let text = format!("{whole}.{fraction:0width$}", width = decimals as usize);
    format!("{}{}", text.trim_end_matches('0').trim_end_matches('.'), UNITS[unit])
}

/// `bytes` in the largest binary unit that divides it: what a person would have typed.
#[must_use]
pub fn human_binary(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift && bytes.trailing_zeros() >= shift {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_as_docker_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("42", 42),
            ("42b", 42),
            ("42B", 42),
            ("32k", 32 << 10),
            ("32kb", 32 << 10),
            ("32KiB", 32 << 10),
            ("512m", 512 << 20),
            ("1.5g", 3 << 29),
            ("0.5G", 1 << 29),
            ("2 GiB", 2 << 30),
            ("1T", 1 << 40),
            ("7p", 7 << 50),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "-1", "1.", ".5g", "1..5g", "1mm", "1x", "1ki", "abc", "1bb", "1 0", "0x10"] {
            assert!(matches!(parse_size(text), Err(QuantityError::Size(_))), "{text}");
        }
        for text in ["99999999999999999999", "9000p", "8192p"] {
            assert!(matches!(parse_size(text), Err(QuantityError::SizeTooLarge(_))), "{text}");
        }
    }

    #[test]
    fn cpus_in_thousandths() {
        for (text, milli) in [("1", 1000), ("0.5", 500), (".25", 250), ("1.250", 1250), ("0.0010", 1), ("64", 64_000)] {
            assert_eq!(parse_cpus(text), Ok(milli), "{text}");
        }
        for text in ["", "0", "0.0", "-1", "1e3", "1,5", "0.0001", "99999999", "abc", "1.2.3"] {
            assert!(parse_cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_234_567, "1.23MB"),
            (12_345_678, "12.3MB"),
            (123_456_789, "123MB"),
            (2_000_000_000, "2GB"),
        ] {
            assert_eq!(human_decimal(bytes), text);
        }
        assert_eq!(human_binary(48 << 20), "48 MiB");
        assert_eq!(human_binary(1536 << 20), "1536 MiB");
        assert_eq!(human_binary(5), "5 bytes");
    }

    proptest! {
        #[test]
        fn any_text_is_a_size_or_an_error(text in "\\PC{0,24}") {
            let _ = parse_size(&text);
            let _ = parse_cpus(&text);
        }

        #[test]
        fn whole_sizes_round_trip(mib in 0_u64..(1 << 40)) {
            prop_assert_eq!(parse_size(&format!("{mib}m")), Ok(mib << 20));
        }

        #[test]
        fn any_size_prints(bytes: u64) {
            prop_assert!(human_decimal(bytes).len() <= 7);
        }
    }
}
