//! `--platform` as Docker's users write it: `linux/x86_64`, `arm64`, `linux`, and nothing.

use std::str::FromStr;

use engine::image::{Platform, PlatformError};

/// Words that are an architecture when they stand alone.
const ARCHITECTURES: [&str; 16] = [
    "386", "aarch64", "amd64", "arm", "arm64", "armel", "armhf", "i386", "i686", "loong64", "mips64le", "ppc64le",
    "riscv64", "s390x", "x86-64", "x86_64",
];

/// The platform that was asked for; an empty text asks for none, so that scripts can pass a variable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asked(pub(crate) Option<Platform>);

impl FromStr for Asked {
    type Err = PlatformError;

    /// What stands for what is as in containerd's `platforms` (`database.go`, `platforms.go`).
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let lower = text.to_lowercase();
        let words: Vec<&str> = lower.split('/').collect();
        let host = Platform::host();
        let (os, architecture, variant) = match words[..] {
            [""] => return Ok(Self(None)),
            ["linux"] => ("linux", host.architecture.as_str(), ""),
            [architecture] if ARCHITECTURES.contains(&architecture) => ("linux", architecture, ""),
            [os, architecture] => (os, architecture, ""),
            [os, architecture, variant] if !variant.is_empty() => (os, architecture, variant),
            // Says what is wrong with it.
            _ => return text.parse().map(|platform| Self(Some(platform))),
        };
        let (architecture, variant) = match (architecture, variant) {
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("i386" | "i486" | "i586" | "i686", variant) => ("386", variant),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            as_it_is => as_it_is,
        };
        let whole = match variant {
            "" => format!("{os}/{architecture}"),
            variant => format!("{os}/{architecture}/{variant}"),
        };
        whole.parse().map(|platform| Self(Some(platform)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn platforms_as_people_write_them() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AArch64", "linux/arm64"),
            ("arm64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("armhf", "linux/arm/v7"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(text.parse::<Asked>().unwrap().0.unwrap().to_string(), expected, "{text}");
        }
        assert_eq!("linux".parse(), Ok(Asked(Some(Platform::host()))));
        assert_eq!("".parse(), Ok(Asked(None)));
        for text in ["linux/", "/amd64", "a/b/c/d", "linux/amd 64", "plan9", "linux/arm/"] {
            assert!(text.parse::<Asked>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_platform_or_an_error(text in "\\PC{0,24}") {
            let _ = text.parse::<Asked>();
        }
    }
}
