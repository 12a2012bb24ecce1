//! `--detach-keys`: the keys that leave a container running, and finding them in what is typed.

use std::str::FromStr;

/// The keys, as the bytes that a terminal sends for them. None where nothing leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

/// Most keys.
const KEYS_MAX: usize = 16;

/// A text that names no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DetachKeysError {
    /// Not a key.
    #[error("unknown key {0:?}: a key is a character, or ctrl- and one of a-z, @, [, \\, ], ^, _")]
    Unknown(String),
    /// More than anybody types.
    #[error("more than {KEYS_MAX} keys")]
    TooMany,
}

impl Default for DetachKeys {
    /// Docker's: ctrl-p, ctrl-q.
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl FromStr for DetachKeys {
    type Err = DetachKeysError;

    /// Reads keys with commas between them. An empty text stands for the default, as with Docker.
    fn from_str(text: &str) -> Result<Self, DetachKeysError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let keys: Vec<u8> = text.split(',').map(key).collect::<Result<_, _>>()?;
        if keys.len() > KEYS_MAX { Err(DetachKeysError::TooMany) } else { Ok(Self(keys)) }
    }
}

fn key(text: &str) -> Result<u8, DetachKeysError> {
    let unknown = || DetachKeysError::Unknown(text.to_owned());
    let single = |text: &str| match *text.as_bytes() {
        [byte] if byte.is_ascii() => Some(byte),
        _ => None,
    };
    if let Some(byte) = single(text) {
        return Ok(byte);
    }
    let (prefix, character) = text.split_once('-').ok_or_else(unknown)?;
    let byte = single(character).filter(|_| prefix.eq_ignore_ascii_case("ctrl")).ok_or_else(unknown)?;
    match byte.to_ascii_uppercase() {
        // What a terminal makes of Control and these: the letter without its upper bits.
        upper @ b'@'..=b'_' => Ok(upper & 0x1f),
        _ => Err(unknown()),
    }
}

/// Looks for the keys in a stream. What may be their beginning is held back until it turns out not to be.
#[derive(Debug)]
pub(crate) struct KeyFilter {
    keys: Vec<u8>,
    /// How many of the keys have come.
    held: usize,
}

impl KeyFilter {
    pub(crate) fn new(keys: &DetachKeys) -> Self {
        Self { keys: keys.0.clone(), held: 0 }
    }

    /// Appends to `passed` what the process is to have of `typed`. Whether the keys came; what is behind them is
    /// nobody's.
    pub(crate) fn pass(&mut self, typed: &[u8], passed: &mut Vec<u8>) -> bool {
        for &byte in typed {
            // As long as no beginning of the keys goes on with this byte, one byte more of what was held was none.
            while self.held > 0 && self.keys[self.held] != byte {
                let kept = self.longest_border();
                passed.extend_from_slice(&self.keys[..self.held - kept]);
                self.held = kept;
            }
            if self.keys.get(self.held) == Some(&byte) {
                self.held += 1;
                if self.held == self.keys.len() {
                    return true;
                }
            } else {
                passed.push(byte);
            }
        }
        false
    }

    /// The longest beginning of the keys that what is held ends with, itself not counted.
    fn longest_border(&self) -> usize {
        (0..self.held).rev().find(|&length| self.keys[..self.held].ends_with(&self.keys[..length])).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(text: &str) -> DetachKeys {
        text.parse().unwrap()
    }

    #[test]
    fn keys_as_people_name_them() {
        assert_eq!(keys(""), DetachKeys(vec![16, 17]));
        assert_eq!(keys("ctrl-p,ctrl-q"), DetachKeys::default());
        assert_eq!(keys("CTRL-A,b,ctrl-@,ctrl-[,ctrl-\\,ctrl-_"), DetachKeys(vec![1, b'b', 0, 27, 28, 31]));
        assert_eq!(keys("-"), DetachKeys(vec![b'-']));
        for text in ["ctrl-", "ctrl-1", "ab", "alt-x", "ctrl-pp", ",", "\u{e9}"] {
            assert_eq!(
                text.parse::<DetachKeys>().map_err(|error| error.to_string().starts_with("unknown key")),
                Err(true)
            );
        }
        assert_eq!("a,".repeat(40)[..79].parse::<DetachKeys>(), Err(DetachKeysError::TooMany));
    }

    #[test]
    fn keys_in_a_stream() {
        for (with, typed, passed, left) in [
            ("ctrl-p,ctrl-q", &b"ab\x10\x11cd"[..], &b"ab"[..], true),
            ("ctrl-p,ctrl-q", b"a\x10b\x10\x10\x11", b"a\x10b\x10", true),
            ("ctrl-p,ctrl-q", b"\x11\x10", b"\x11", false),
            ("a,a,b", b"aaab", b"a", true),
            ("a,b,a,c", b"ababac", b"ab", true),
            ("x", b"1x2", b"1", true),
        ] {
            // In one piece, and a byte at a time.
            for piece in [typed.len(), 1] {
                let mut filter = KeyFilter::new(&keys(with));
                let mut out = Vec::new();
                let found = typed.chunks(piece).any(|piece| filter.pass(piece, &mut out));
                assert_eq!((&out[..], found), (passed, left), "{with}");
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost(
            with in prop::collection::vec(prop::sample::select(vec![b'a', b'b']), 1..5),
            typed in prop::collection::vec(prop::sample::select(vec![b'a', b'b', b'c']), 0..40),
        ) {
            let mut filter = KeyFilter::new(&DetachKeys(with.clone()));
            let mut out = Vec::new();
            let found = filter.pass(&typed, &mut out);
            let first = typed.windows(with.len()).position(|window| window == with);
            prop_assert_eq!(found, first.is_some());
            match first {
                Some(at) => prop_assert_eq!(&out[..], &typed[..at]),
                None => {
                    out.extend_from_slice(&with[..filter.held]);
                    prop_assert_eq!(out, typed);
                }
            }
        }
    }
}
