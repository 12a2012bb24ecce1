//! Capability names and sets, with Docker's defaults and rules for `--cap-add` and `--cap-drop`.

use thiserror::Error;

/// A name that is no capability.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown capability {0:?}")]
pub struct UnknownCapability(pub String);

/// Names in the order of their numbers (`linux/capability.h`, 6.12), without the `CAP_` prefix.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container gets that asks for nothing.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability.
pub const ALL: u64 = (1 << NAMES.len()) - 1;

/// A word of `--cap-add` or `--cap-drop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    All,
    One(u64),
}

fn parse(word: &str) -> Result<Word, UnknownCapability> {
    let upper = word.to_ascii_uppercase();
    if upper == "ALL" {
        return Ok(Word::All);
    }
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let number = NAMES.iter().position(|known| *known == name).ok_or_else(|| UnknownCapability(word.to_owned()))?;
    Ok(Word::One(1 << number))
}

/// The mask of the default set.
#[must_use]
pub fn default_set() -> u64 {
    let bit = |name: &&str| NAMES.iter().position(|known| known == name).map_or(0, |number| 1 << number);
    DEFAULT.iter().map(bit).fold(0, |set, bit| set | bit)
}

/// Whether `word` may stand in `--cap-add` or `--cap-drop`.
///
/// # Errors
///
/// [`UnknownCapability`].
pub fn check(word: &str) -> Result<(), UnknownCapability> {
    parse(word).map(|_| ())
}

/// The capabilities of a container, as Docker computes them: `ALL` added, everything but what is dropped;
/// `ALL` dropped, only what is added; else the default set without what is dropped, with what is added.
///
/// # Errors
///
/// [`UnknownCapability`] for the first word that is none.
pub fn resolve(add: &[String], drop: &[String], privileged: bool) -> Result<u64, UnknownCapability> {
    let (add_all, add) = fold(add)?;
    let (drop_all, drop) = fold(drop)?;
    Ok(match (privileged, add_all, drop_all) {
        (true, _, _) => ALL,
        (_, true, _) => ALL & !drop,
        (_, _, true) => add,
        _ => (default_set() & !drop) | add,
    })
}

fn fold(words: &[String]) -> Result<(bool, u64), UnknownCapability> {
    words.iter().try_fold((false, 0), |(all, set), word| {
        Ok(match parse(word)? {
            Word::All => (true, set),
            Word::One(bit) => (all, set | bit),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn resolved(add: &str, drop: &str) -> u64 {
        resolve(&words(add), &words(drop), false).unwrap()
    }

    #[test]
    fn default_is_what_docker_gives() {
        // CapBnd of /proc/self/status in a default Docker container.
        assert_eq!(default_set(), 0xa804_25fb);
        assert_eq!(resolved("", ""), 0xa804_25fb);
    }

    #[test]
    fn add_drop_and_all() {
        assert_eq!(resolved("NET_ADMIN", ""), 0xa804_25fb | 1 << 12);
        assert_eq!(resolved("cap_net_admin", "CAP_CHOWN"), (0xa804_25fb & !1) | 1 << 12);
        assert_eq!(resolved("ALL", ""), ALL);
        assert_eq!(resolved("all", "sys_admin"), ALL & !(1 << 21));
        assert_eq!(resolved("", "ALL"), 0);
        assert_eq!(resolved("KILL", "ALL"), 1 << 5);
        assert_eq!(resolve(&[], &words("ALL"), true), Ok(ALL));
        assert_eq!(ALL, 0x1ff_ffff_ffff);
    }

    #[test]
    fn unknown_names_are_refused() {
        for word in ["", "CAP_", "NET", "CAP_CAP_KILL", "CAP_ALL"] {
            assert_eq!(check(word), Err(UnknownCapability(word.to_owned())));
        }
    }
}
