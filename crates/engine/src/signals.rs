//! Names and numbers of signals (signal(7), x86-64).

use thiserror::Error;

/// A text that is no signal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid signal {0:?}")]
pub struct InvalidSignal(pub String);

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// SIGKILL.
pub const KILL: u8 = 9;

/// SIGTERM.
pub const TERM: u8 = 15;

/// First and last of the real-time signals, as libc counts them.
const REAL_TIME: (u8, u8) = (34, 64);

/// Parses `15`, `TERM`, `SIGTERM`, `RTMIN+3`, `SIGRTMAX-1`; letters of either case.
///
/// # Errors
///
/// [`InvalidSignal`].
pub fn parse(text: &str) -> Result<u8, InvalidSignal> {
    let invalid = || InvalidSignal(text.to_owned());
    if let Ok(number) = text.parse::<u8>() {
        return if (1..=REAL_TIME.1).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return u8::try_from(index + 1).map_err(|_| invalid());
    }
    match name {
        "CLD" => Ok(17),
        "POLL" => Ok(29),
        "IOT" => Ok(6),
        _ => real_time(name).ok_or_else(invalid),
    }
}

fn real_time(name: &str) -> Option<u8> {
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => REAL_TIME.0,
        (_, Some("")) => REAL_TIME.1,
        (Some(rest), _) => REAL_TIME.0.checked_add(rest.strip_prefix('+')?.parse().ok()?)?,
        (_, Some(rest)) => REAL_TIME.1.checked_sub(rest.strip_prefix('-')?.parse().ok()?)?,
        _ => return None,
    };
    (REAL_TIME.0..=REAL_TIME.1).contains(&number).then_some(number)
}

/// The name of a signal, `SIGTERM`; the number where it has none.
#[must_use]
pub fn name(signal: u8) -> String {
    let known = usize::from(signal).checked_sub(1).and_then(|index| NAMES.get(index));
    known.map_or_else(|| signal.to_string(), |name| format!("SIG{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names() {
        for (text, number) in [
            ("15", 15),
            ("TERM", 15),
            ("sigterm", 15),
            ("KILL", 9),
            ("SIGHUP", 1),
            ("SYS", 31),
            ("64", 64),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("CLD", 17),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for text in ["", "0", "65", "-1", "SIG", "SIGSIGTERM", "RTMIN+40", "RTMAX-40", "RTMIN-1", "256", "NOPE"] {
            assert_eq!(parse(text), Err(InvalidSignal(text.to_owned())));
        }
        assert_eq!((name(15).as_str(), name(9).as_str(), name(40).as_str()), ("SIGTERM", "SIGKILL", "40"));
    }
}
