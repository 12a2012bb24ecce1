//! Container ids and names.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;

/// A text that cannot name a container.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid container name {0:?}: expected [a-zA-Z0-9][a-zA-Z0-9_.-]* of 2 to 128 characters")]
pub struct InvalidName(pub String);

const ADJECTIVES: [&str; 64] = [
    "able", "amber", "ample", "azure", "balmy", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid",
    "civil", "clear", "clever", "coral", "crisp", "daring", "deft", "eager", "early", "fair", "fleet", "fond", "frank",
    "free", "gallant", "gentle", "glad", "golden", "grand", "hardy", "honest", "humble", "jolly", "keen", "kind",
    "lively", "loyal", "lucid", "lucky", "mellow", "merry", "mild", "modest", "neat", "nimble", "noble", "patient",
    "placid", "plucky", "proud", "quick", "quiet", "ready", "serene", "silver", "snug", "steady", "sunny", "swift",
    "tidy", "trusty", "witty",
];

const NOUNS: [&str; 64] = [
    "anchor", "auk", "barge", "beacon", "bight", "bream", "brig", "buoy", "canoe", "cove", "crab", "creek", "curlew",
    "cutter", "delta", "dinghy", "dory", "dunlin", "eddy", "eider", "estuary", "ferry", "fjord", "fulmar", "gannet",
    "grebe", "gull", "harbour", "heron", "herring", "hull", "isle", "jetty", "kayak", "kelp", "ketch", "lagoon",
    "lugger", "mussel", "oar", "osprey", "otter", "oyster", "paddle", "petrel", "pier", "plover", "puffin", "punt",
    "quay", "raft", "reed", "rudder", "salmon", "schooner", "seal", "shoal", "skiff", "sloop", "tern", "tide", "weir",
    "wharf", "yawl",
];

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

/// A new container id: 256 random bits as 64 lower-case hexadecimal digits.
///
/// # Errors
///
/// Only if the kernel has no random numbers to give.
pub fn new_id() -> io::Result<String> {
    let bytes: [u8; 32] = random()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A random name, `adjective_noun`; from the second `attempt` (counted from 0) on with a number behind it.
///
/// # Errors
///
/// As [`new_id`].
pub fn new_name(attempt: u32) -> io::Result<String> {
    let [a, n, x, y] = random()?;
    let (adjective, noun) = (ADJECTIVES[usize::from(a % 64)], NOUNS[usize::from(n % 64)]);
    Ok(match attempt {
        0 => format!("{adjective}_{noun}"),
        _ => format!("{adjective}_{noun}_{}", u16::from_le_bytes([x, y])),
    })
}

/// Docker's rule for names.
///
/// # Errors
///
/// [`InvalidName`].
pub fn check_name(name: &str) -> Result<(), InvalidName> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if first && rest && (2..=128).contains(&name.len()) { Ok(()) } else { Err(InvalidName(name.to_owned())) }
}

/// The first twelve digits of an id: what tables and host names show.
#[must_use]
pub fn short_id(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_and_names_are_legal() {
        let id = new_id().unwrap();
        assert_eq!(id.len(), 64);
        assert!(id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        assert_ne!(id, new_id().unwrap());
        for attempt in 0..200 {
            check_name(&new_name(attempt).unwrap()).unwrap();
        }
    }

    #[test]
    fn every_word_once() {
        assert_eq!(ADJECTIVES.iter().chain(&NOUNS).collect::<HashSet<_>>().len(), 128);
        for word in ADJECTIVES.iter().chain(&NOUNS) {
            check_name(word).unwrap();
        }
    }

    #[test]
    fn names_as_docker_allows_them() {
        for name in ["ab", "a1", "Web-1.2_x", &"x".repeat(128)] {
            check_name(name).unwrap();
        }
        for name in ["", "a", "-a", "_a", ".a", "a b", "a/b", "ä1", "../x", "a\n", &"x".repeat(129)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn short_ids() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("0123"), "0123");
    }
}
