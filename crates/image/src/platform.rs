//! What an image was built for.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// How many characters of an operating system's or an architecture's name are shown.
const PART_SHOWN: usize = 64;

/// An operating system and a processor architecture, as Go and the OCI image-spec spell them (`image-index.md`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `amd64`, `arm64`, …
    #[serde(default)]
    pub architecture: String,
    /// `v8` and the like.
    #[serde(default)]
    pub variant: Option<String>,
}

/// A text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform: write os/architecture, as in linux/amd64")]
pub struct PlatformError(String);

impl Platform {
    /// The platform of this host.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// Whether what was built for `self` will do where `wanted` is asked for. What says nothing will do; a variant
    /// matters only where both name one.
    #[must_use]
    pub fn suits(&self, wanted: &Self) -> bool {
        let same = |ours: &str, theirs: &str| ours.is_empty() || ours == theirs;
        same(&self.os, &wanted.os)
            && same(&self.architecture, &wanted.architecture)
            && match (self.variant.as_deref(), wanted.variant.as_deref()) {
                (Some(ours), Some(theirs)) => ours.is_empty() || ours == theirs,
                _ => true,
            }
    }

    /// Whether it names no platform at all: so builders mark what accompanies images, such as attestations.
    pub(crate) fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }
}

/// What archives and registries say of platforms is shown to people: not at any length, and without what moves their
/// cursors.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |part: &str| -> String {
            let harmless = |c: char| if c.is_ascii_graphic() { c } else { '?' };
            part.chars().take(PART_SHOWN).map(harmless).collect()
        };
        write!(f, "{}/{}", shown(&self.os), shown(&self.architecture))?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(f, "/{}", shown(variant)),
            _ => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<_> = text.split('/').collect();
        let word = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b))
        };
        match parts[..] {
            [os, architecture] if parts.iter().all(word) => {
                Ok(Self { os: os.into(), architecture: architecture.into(), variant: None })
            }
            [os, architecture, variant] if parts.iter().all(word) => {
                Ok(Self { os: os.into(), architecture: architecture.into(), variant: Some(variant.into()) })
            }
            _ => Err(PlatformError(text.chars().take(100).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_parse_and_print() {
        for text in ["linux/amd64", "linux/arm64/v8"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for text in ["", "linux", "linux/", "/amd64", "linux/amd64/v1/x", "linux/AMD64", "linux/amd 64"] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_suits() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        assert!(platform("linux/arm64/v8").suits(&platform("linux/arm64")));
        assert!(platform("linux/arm64").suits(&platform("linux/arm64/v8")));
        assert!(!platform("linux/arm/v6").suits(&platform("linux/arm/v7")));
        assert!(!platform("linux/arm64").suits(&platform("linux/amd64")));
        assert!(!platform("windows/amd64").suits(&platform("linux/amd64")));
        let silent = Platform { os: String::new(), architecture: String::new(), variant: None };
        assert!(silent.suits(&platform("linux/amd64")));
    }
}
