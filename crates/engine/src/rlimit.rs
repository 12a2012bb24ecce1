//! `--ulimit NAME=SOFT[:HARD]`.

use thiserror::Error;

/// Text that is no resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RlimitError {
    /// Not `NAME=SOFT[:HARD]`.
    #[error("invalid ulimit {0:?}: expected NAME=SOFT[:HARD] with numbers, -1 for none")]
    Syntax(String),
    /// No such limit.
    #[error("unknown ulimit {0:?}")]
    Unknown(String),
    /// Soft over hard.
    #[error("ulimit {0:?}: the soft limit is over the hard limit")]
    SoftOverHard(String),
}

/// Names with their `RLIMIT_*` numbers on Linux x86-64.
const NAMES: [(&str, u32); 16] = [
    ("cpu", 0),
    ("fsize", 1),
    ("data", 2),
    ("stack", 3),
    ("core", 4),
    ("rss", 5),
    ("nproc", 6),
    ("nofile", 7),
    ("memlock", 8),
    ("as", 9),
    ("locks", 10),
    ("sigpending", 11),
    ("msgqueue", 12),
    ("nice", 13),
    ("rtprio", 14),
    ("rttime", 15),
];

/// Parses one limit. A single number is both limits.
///
/// # Errors
///
/// [`RlimitError`] naming the text.
pub fn parse(text: &str) -> Result<protocol::Rlimit, RlimitError> {
    let syntax = || RlimitError::Syntax(text.to_owned());
    let (name, limits) = text.split_once('=').ok_or_else(syntax)?;
    let (_, resource) =
        *NAMES.iter().find(|(known, _)| *known == name).ok_or_else(|| RlimitError::Unknown(name.to_owned()))?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (value(soft).ok_or_else(syntax)?, value(hard).ok_or_else(syntax)?);
    if soft > hard {
        return Err(RlimitError::SoftOverHard(text.to_owned()));
    }
    Ok(protocol::Rlimit { resource, soft, hard })
}

fn value(text: &str) -> Option<u64> {
    if text == "-1" || text == "unlimited" { Some(u64::MAX) } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let limit = |resource, soft, hard| Ok(protocol::Rlimit { resource, soft, hard });
        assert_eq!(parse("nofile=1024"), limit(7, 1024, 1024));
        assert_eq!(parse("nofile=1024:4096"), limit(7, 1024, 4096));
        assert_eq!(parse("core=0:-1"), limit(4, 0, u64::MAX));
        assert_eq!(parse("memlock=-1"), limit(8, u64::MAX, u64::MAX));
        assert_eq!(parse("stack=unlimited:unlimited"), limit(3, u64::MAX, u64::MAX));
    }

    #[test]
    fn refusals() {
        for text in ["", "nofile", "nofile=", "nofile=a", "nofile=1:", "nofile=1:2:3", "nofile=-2"] {
            assert_eq!(parse(text), Err(RlimitError::Syntax(text.to_owned())));
        }
        assert_eq!(parse("files=1"), Err(RlimitError::Unknown("files".to_owned())));
        assert_eq!(parse("nofile=-1:10"), Err(RlimitError::SoftOverHard("nofile=-1:10".to_owned())));
    }
}
