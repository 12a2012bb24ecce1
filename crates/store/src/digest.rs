//! SHA-256 digests, the only ones that name things here.

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

/// A SHA-256 digest. Its text is `sha256:` and 64 lower-case hexadecimal digits (OCI image-spec, `descriptor.md`),
/// nothing else parses, so its text is always safe in a path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// A digest of another algorithm.
    #[error("digest {0:?} is not supported: only sha256 is")]
    Algorithm(String),
    /// Not a digest.
    #[error("{0:?} is not a digest: it must be `sha256:` and 64 lower-case hexadecimal digits")]
    Malformed(String),
}

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The digest that is `bytes`, computed elsewhere.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from_digit(d.into(), 16).unwrap_or('0')).collect()
    }

    /// Reads 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    ///
    /// [`DigestError::Malformed`] for anything else.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        parse_hex(hex).map(Self).ok_or_else(|| DigestError::Malformed(shorten(hex)))
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text.split_once(':') {
            Some(("sha256", hex)) => parse_hex(hex).map(Self).ok_or_else(|| DigestError::Malformed(shorten(text))),
            Some(("sha384" | "sha512", _)) => Err(DigestError::Algorithm(shorten(text))),
            _ => Err(DigestError::Malformed(shorten(text))),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn parse_hex(hex: &str) -> Option<[u8; 32]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut digest = [0; 32];
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if pairs.len() != digest.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(digest)
}

/// What came from outside is shown, but not at any length.
fn shorten(text: &str) -> String {
    text.chars().take(150).collect()
}

/// Hashes what is given to it bit by bit.
#[derive(Debug, Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes taken.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        let known = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), known);
        assert_eq!(Hasher::default().finish(), known.parse().unwrap());
    }

    #[test]
    fn paths_and_lookalikes_do_not_parse() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let upper = hex.to_uppercase();
        let texts = [
            String::new(),
            "sha256:".into(),
            "sha256:../../../../etc/passwd".into(),
            format!("sha256:{upper}"),
            format!("sha256:{hex}0"),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{}/", &hex[1..]),
            format!("SHA256:{hex}"),
            format!(" sha256:{hex}"),
            format!("sha256:{hex}\n"),
            hex.to_owned(),
            format!("sha256:sha256:{hex}"),
        ];
        for text in texts {
            assert_eq!(text.parse::<Digest>(), Err(DigestError::Malformed(text.clone())), "{text:?}");
        }
        let sha512 = format!("sha512:{hex}{hex}");
        assert_eq!(sha512.parse::<Digest>(), Err(DigestError::Algorithm(sha512.clone())));
    }

    proptest! {
        #[test]
        fn digests_round_trip(bytes in proptest::array::uniform32(any::<u8>())) {
            let digest = Digest(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
            prop_assert_eq!(Digest::from_hex(&digest.hex()), Ok(digest));
        }

        #[test]
        fn what_parses_is_exactly_its_own_text(text in "(sha256:)?[0-9a-fA-F./:]{0,80}") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }
    }
}
