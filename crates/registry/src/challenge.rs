//! What a registry wants to see: the `WWW-Authenticate` header (RFC 9110, section 11; RFC 6750; the token protocol
//! of the distribution project, `docs/content/spec/auth/token.md`).
//!
//! ```text
//! challenges = challenge *( "," challenge )
//! challenge  = scheme [ SP ( token68 | parameter *( "," parameter ) ) ]
//! parameter  = token "=" ( token | quoted-string )
//! ```

/// At most so many challenges and parameters are read; no registry has more.
const MOST: usize = 16;

/// One way to authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// In lower case: `basic`, `bearer`.
    pub(crate) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of a parameter, whose name is given in lower case.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// The challenges of one header. What cannot be read ends the list.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut rest = Rest(header);
    let mut found: Vec<Challenge> = Vec::new();
    loop {
        rest.skip(|b| matches!(b, b' ' | b'\t' | b','));
        let Some(word) = rest.token() else { return found };
        let spaces = rest.skip(|b| matches!(b, b' ' | b'\t'));
        match rest.value() {
            Some(value) => match found.last_mut() {
                Some(challenge) if challenge.parameters.len() < MOST => {
                    challenge.parameters.push((word.to_ascii_lowercase(), value));
                }
                _ => return found,
            },
            None if found.len() == MOST || (spaces == 0 && !rest.at_end_of_challenge()) => return found,
            None => {
                found.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                rest.token68();
            }
        }
    }
}

struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip(&mut self, skipped: impl Fn(u8) -> bool) -> usize {
        let length = self.0.bytes().take_while(|b| skipped(*b)).count();
        self.0 = self.0.get(length..).unwrap_or_default();
        length
    }

    fn token(&mut self) -> Option<&'a str> {
        let length = self.0.bytes().take_while(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b)).count();
        let (token, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    /// `= value`, where a parameter goes on.
    fn value(&mut self) -> Option<String> {
        let after = self.0.strip_prefix('=')?;
        let mut rest = Rest(after);
        rest.skip(|b| matches!(b, b' ' | b'\t'));
        let value = match rest.0.strip_prefix('"') {
            Some(quoted) => {
                rest.0 = quoted;
                rest.quoted()?
            }
            None => {
                let length = rest.0.bytes().take_while(|b| !matches!(b, b',' | b' ' | b'\t' | b'"')).count();
                let (value, after) = rest.0.split_at_checked(length)?;
                rest.0 = after;
                value.to_owned()
            }
        };
        self.0 = rest.0;
        Some(value)
    }

    fn quoted(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut characters = self.0.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.0 = self.0.get(at + 1..)?;
                    return Some(text);
                }
                '\\' => text.push(characters.next()?.1),
                _ => text.push(character),
            }
        }
        None
    }

    fn at_end_of_challenge(&self) -> bool {
        self.0.is_empty() || self.0.starts_with(',')
    }

    /// Skips a token68 (`Negotiate abc==`): letters up to the next comma, with no `=` but at the end.
    fn token68(&mut self) {
        let word = self.0.split([',', ' ']).next().unwrap_or_default();
        let letters = word.trim_end_matches('=');
        if letters.contains(['=', '"'])
            || (letters.len() == word.len() && !word.contains(['/', '+']) && !self.ends(word))
        {
            return;
        }
        self.0 = self.0.get(word.len()..).unwrap_or_default();
    }

    /// Whether the challenge ends after `word`.
    fn ends(&self, word: &str) -> bool {
        let after = self.0.get(word.len()..).unwrap_or_default().trim_start();
        after.is_empty() || after.starts_with(',')
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Read<'a> = Vec<(&'a str, Vec<(&'a str, &'a str)>)>;

    fn read(challenges: &[Challenge]) -> Read<'_> {
        challenges
            .iter()
            .map(|c| (c.scheme.as_str(), c.parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect()))
            .collect()
    }

    #[test]
    fn what_registries_send() {
        let cases: Vec<(&str, Read<'_>)> = vec![
            (
                r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#,
                vec![(
                    "bearer",
                    vec![
                        ("realm", "https://auth.example/token"),
                        ("service", "registry.example"),
                        ("scope", "repository:a/b:pull,push"),
                    ],
                )],
            ),
            ("Basic", vec![("basic", vec![])]),
            (r#"BASIC Realm="a \"b\" c""#, vec![("basic", vec![("realm", "a \"b\" c")])]),
            ("basic realm=plain", vec![("basic", vec![("realm", "plain")])]),
            (
                r#"Basic realm="x", Bearer realm="y" , service=z"#,
                vec![("basic", vec![("realm", "x")]), ("bearer", vec![("realm", "y"), ("service", "z")])],
            ),
            (
                r#"Negotiate, NTLM abc==, Basic realm="x""#,
                vec![("negotiate", vec![]), ("ntlm", vec![]), ("basic", vec![("realm", "x")])],
            ),
            ("Bearer realm = \"spaces\"", vec![("bearer", vec![("realm", "spaces")])]),
            (r#"Bearer realm="a,b=c""#, vec![("bearer", vec![("realm", "a,b=c")])]),
            (r#"Bearer realm="no end"#, vec![("bearer", vec![])]),
            ("", vec![]),
            (",,,", vec![]),
            ("=", vec![]),
            ("realm=\"no scheme\"", vec![]),
        ];
        for (header, expected) in cases {
            assert_eq!(read(&parse(header)), expected, "{header}");
        }
    }

    #[test]
    fn a_flood_of_challenges_is_cut() {
        assert!(parse(&"Basic, ".repeat(10_000)).len() <= MOST);
        let parameters = format!("Basic {}", "a=b, ".repeat(10_000));
        assert!(parse(&parameters)[0].parameters.len() <= MOST);
    }

    proptest! {
        #[test]
        fn any_header_is_read(header in "\\PC{0,200}") {
            let _ = parse(&header);
        }

        #[test]
        fn headers_like_challenges_are_read(header in "(Basic|Bearer|[a-z=, \"\\\\]{0,6}|realm=\"[^\"]{0,5}\"|, ){0,12}") {
            let _ = parse(&header);
        }

        #[test]
        fn quoted_values_come_back(value in "[ -~]{0,40}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let found = parse(&format!("Bearer realm=\"{quoted}\", service=\"s\""));
            prop_assert_eq!(found[0].parameter("realm"), Some(value.as_str()));
            prop_assert_eq!(found[0].parameter("service"), Some("s"));
        }
    }
}
