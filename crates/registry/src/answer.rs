//! What a registry says when it says no, made fit to be shown.

use std::fmt;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// At most so many errors of one answer are kept, with so many characters of their codes and messages.
const MOST_ERRORS: usize = 8;
const LONGEST_CODE: usize = 64;
const LONGEST_MESSAGE: usize = 300;

/// What a registry answered instead of what was asked for: bounded, and without control characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// `code` and `message` of each of its errors (OCI distribution-spec, "Error Codes"), at most eight of them.
    pub errors: Vec<(String, String)>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)?;
        for (code, message) in &self.errors {
            match (code.is_empty(), message.is_empty()) {
                (false, false) => write!(f, ", {code} ({message})")?,
                _ => write!(f, ", {code}{message}")?,
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    errors: Vec<Item>,
    /// What token servers and proxies say instead.
    #[serde(default)]
    details: Text,
    #[serde(default)]
    error: Text,
    #[serde(default)]
    error_description: Text,
    #[serde(default)]
    message: Text,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    code: Text,
    #[serde(default)]
    message: Text,
}

/// A string, or anything else, which is then nothing.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Text(String),
    Other(IgnoredAny),
}

impl Default for Text {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl Text {
    fn shown(&self, longest: usize) -> String {
        match self {
            Self::Text(text) => show(text, longest),
            Self::Other(_) => String::new(),
        }
    }
}

impl Answer {
    /// Reads the body of an answer. A body that is not the specification's JSON says nothing.
    pub(crate) fn read(status: u16, body: &[u8]) -> Self {
        let Ok(document) = serde_json::from_slice::<Document>(body) else {
            return Self { status, errors: Vec::new() };
        };
        let mut errors: Vec<(String, String)> = document
            .errors
            .iter()
            .take(MOST_ERRORS)
            .map(|e| (e.code.shown(LONGEST_CODE), e.message.shown(LONGEST_MESSAGE)))
            .collect();
        if errors.is_empty() {
            let code = document.error.shown(LONGEST_CODE);
            let others = [&document.error_description, &document.details, &document.message];
            errors.push((
                code,
                others.map(|text| text.shown(LONGEST_MESSAGE)).into_iter().find(|t| !t.is_empty()).unwrap_or_default(),
            ));
        }
        errors.retain(|(code, message)| !code.is_empty() || !message.is_empty());
        Self { status, errors }
    }
}

/// Text from outside as it may stand on a terminal: at most `longest` characters, each control or direction character
/// escaped.
pub(crate) fn show(text: &str, longest: usize) -> String {
    let mut shown = String::new();
    for (index, character) in text.trim().chars().enumerate() {
        if index == longest {
            shown.push('…');
            break;
        }
        if character.is_control() || is_format(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Characters that show nothing, but change how others are shown.
fn is_format(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(body: &str) -> String {
        Answer::read(403, body.as_bytes()).to_string()
    }

    #[test]
    fn what_registries_and_token_servers_say() {
        let cases = [
            (r#"{"errors":[{"code":"DENIED","message":"no"}]}"#, "status 403, DENIED (no)"),
            (r#"{"errors":[{"code":"A"},{"message":"b"}]}"#, "status 403, A, b"),
            (r#"{"errors":[{"code":7,"message":["x"],"detail":{}}]}"#, "status 403"),
            (r#"{"details":"incorrect username or password"}"#, "status 403, incorrect username or password"),
            (r#"{"error":"invalid_grant","error_description":"old"}"#, "status 403, invalid_grant (old)"),
            ("{}", "status 403"),
            ("<html>", "status 403"),
            ("", "status 403"),
            (r#"{"errors":"#, "status 403"),
            (
                r#"{"errors":[{"code":"\u001b[2J\n\u202e","message":"\u0007"}]}"#,
                r"status 403, \u{1b}[2J\u{a}\u{202e} (\u{7})",
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(shown(body), expected, "{body}");
        }
    }

    #[test]
    fn long_answers_are_cut() {
        let one = format!(r#"{{"code":"C","message":"{}"}}"#, "m".repeat(1000));
        let body = format!(r#"{{"errors":[{}]}}"#, vec![one; 100].join(","));
        assert!(shown(&body).chars().count() < MOST_ERRORS * (LONGEST_CODE + LONGEST_MESSAGE));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(shown(&deep), "status 403");
    }

    proptest! {
        #[test]
        fn nothing_shown_controls_the_terminal(message in any::<String>()) {
            let body = serde_json::json!({ "errors": [{ "code": message, "message": message }] }).to_string();
            prop_assert!(!shown(&body).chars().any(char::is_control));
        }
    }
}
