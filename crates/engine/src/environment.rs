//! Environments: entries, `--env-file`, and the merge of image, request and defaults, as Docker has them.
//!
//! An entry is `NAME=value`, or just `NAME`, which removes the variable.

use thiserror::Error;

/// Text that is no environment entry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvironmentError {
    /// The name is empty.
    #[error("environment entry {0:?} has no variable name")]
    NoName(String),
    /// White space in a name of an environment file.
    #[error("line {line}: variable name {name:?} contains white space")]
    WhiteSpace {
        /// Counted from 1.
        line: usize,
        /// What stands before `=`.
        name: String,
    },
    /// A line starts with `=`.
    #[error("line {line}: no variable name in {text:?}")]
    NoNameInFile {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// A file is not UTF-8.
    #[error("line {line} is not valid UTF-8")]
    NotUtf8 {
        /// Counted from 1.
        line: usize,
    },
    /// A NUL byte, which no environment can hold.
    #[error("environment entry of {0} bytes contains a NUL byte")]
    Nul(usize),
}

/// Reads an entry of `--env`: a bare name takes its value from `host`, or becomes a removal.
///
/// # Errors
///
/// [`EnvironmentError`] for an entry without a name or with a NUL byte.
pub fn parse_entry(text: &str, host: impl Fn(&str) -> Option<String>) -> Result<String, EnvironmentError> {
    if text.contains('\0') {
        return Err(EnvironmentError::Nul(text.len()));
    }
    match text.split_once('=') {
        Some(("", _)) => Err(EnvironmentError::NoName(text.to_owned())),
        Some(_) => Ok(text.to_owned()),
        None if text.is_empty() => Err(EnvironmentError::NoName(text.to_owned())),
        None => Ok(host(text).map_or_else(|| text.to_owned(), |value| format!("{text}={value}"))),
    }
}

/// Reads a file of `--env-file`: a line is `NAME=value` (everything after `=` is the value, quotes included),
/// or a bare name, which takes its value from `host` and is left out if it has none there. White space before
/// a line is dropped; empty lines and lines that start with `#` are comments; a byte order mark is skipped.
///
/// # Errors
///
/// [`EnvironmentError`] naming the line.
pub fn parse_file(bytes: &[u8], host: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, EnvironmentError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut entries = Vec::new();
    for (index, raw) in bytes.split(|&b| b == b'\n').enumerate() {
        let line = index + 1;
        let text = std::str::from_utf8(raw).map_err(|_| EnvironmentError::NotUtf8 { line })?;
        let text = text.strip_suffix('\r').unwrap_or(text).trim_start();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let name = text.split_once('=').map_or(text, |(name, _)| name);
        if name.is_empty() {
            return Err(EnvironmentError::NoNameInFile { line, text: text.to_owned() });
        }
        if name.trim_end().contains(char::is_whitespace) || (text.contains('=') && name.ends_with(char::is_whitespace))
        {
            return Err(EnvironmentError::WhiteSpace { line, name: name.to_owned() });
        }
        if text.contains('\0') {
            return Err(EnvironmentError::Nul(text.len()));
        }
        if text.contains('=') {
            entries.push(text.to_owned());
        } else if let Some(value) = host(name.trim_end()) {
            entries.push(format!("{}={value}", name.trim_end()));
        }
    }
    Ok(entries)
}

fn name_of(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// `base` with every entry of `overrides` applied: replaced in place, appended, or removed.
#[must_use]
pub fn merge(base: Vec<String>, overrides: &[String]) -> Vec<String> {
    let mut merged = base;
    for entry in overrides {
        let name = name_of(entry);
        let at = merged.iter().position(|known| name_of(known) == name);
        match (at, entry.contains('=')) {
            (Some(at), true) => merged[at].clone_from(entry),
            (Some(at), false) => {
                merged.remove(at);
            }
            (None, true) => merged.push(entry.clone()),
            (None, false) => {}
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(name: &str) -> Option<String> {
        (name == "LANG").then(|| "C.UTF-8".to_owned())
    }

    #[test]
    fn entries() {
        assert_eq!(parse_entry("A=b=c", host).unwrap(), "A=b=c");
        assert_eq!(parse_entry("A=", host).unwrap(), "A=");
        assert_eq!(parse_entry("LANG", host).unwrap(), "LANG=C.UTF-8");
        assert_eq!(parse_entry("NONE", host).unwrap(), "NONE");
        assert!(parse_entry("=x", host).is_err());
        assert!(parse_entry("", host).is_err());
        assert!(parse_entry("A=\0", host).is_err());
    }

    #[test]
    fn a_file() {
        let text = "\u{feff}# comment\n\nA=1\n  B=two words \nC=\"quoted\"\r\nLANG\nNONE\n\tD==\nE=";
        let entries = parse_file(text.as_bytes(), host).unwrap();
        assert_eq!(entries, ["A=1", "B=two words ", "C=\"quoted\"", "LANG=C.UTF-8", "D==", "E="]);
    }

    #[test]
    fn bad_files_name_the_line() {
        assert_eq!(parse_file(b"A=1\n=2", host), Err(EnvironmentError::NoNameInFile { line: 2, text: "=2".into() }));
        assert_eq!(
            parse_file(b"export A=1", host),
            Err(EnvironmentError::WhiteSpace { line: 1, name: "export A".into() })
        );
        assert_eq!(parse_file(b"A =1", host), Err(EnvironmentError::WhiteSpace { line: 1, name: "A ".into() }));
        assert_eq!(parse_file(b"A=1\n\xff=1", host), Err(EnvironmentError::NotUtf8 { line: 2 }));
    }

    #[test]
    fn merging() {
        let base = vec!["PATH=/bin".to_owned(), "TERM=xterm".to_owned()];
        let over = ["TERM", "A=1", "PATH=/usr/bin", "A=2", "GONE"].map(str::to_owned);
        assert_eq!(merge(base, &over), ["PATH=/usr/bin", "A=2"]);
    }

    proptest! {
        #[test]
        fn any_file_parses_or_fails(bytes: Vec<u8>) {
            if let Ok(entries) = parse_file(&bytes, host) {
                for entry in entries {
                    prop_assert!(parse_entry(&entry, host).is_ok());
                }
            }
        }
    }
}
