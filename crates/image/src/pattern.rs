//! Patterns for names, as Go's `path.Match` understands them, because users know them from Docker's filters.
//!
//! ```text
//! pattern = { "*" | "?" | "[" [ "^" ] range { range } "]" | "\" character | character }
//! range   = bound [ "-" bound ]          bound: any character but "\", "-" and "]", or one after "\"
//! ```
//!
//! `*` stands for any characters but `/`, `?` for one of them; the pattern must match the whole text.

/// A pattern that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Any,
    One,
    Set { negated: bool, ranges: Vec<(char, char)> },
    Character(char),
}

impl Pattern {
    /// Reads a pattern; `None` where it is malformed.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut rest = text.chars();
        let mut tokens = Vec::new();
        while let Some(character) = rest.next() {
            tokens.push(match character {
                '*' => Token::Any,
                '?' => Token::One,
                '[' => set(&mut rest)?,
                '\\' => Token::Character(rest.next()?),
                character => Token::Character(character),
            });
        }
        // Several stars mean what one means.
        tokens.dedup_by(|next, token| *next == Token::Any && *token == Token::Any);
        Some(Self(tokens))
    }

    /// Whether it stands for `text`. Takes at most time proportional to the product of their lengths.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut token, mut at) = (0, 0);
        // Where to go on after the last star, with one more character for it.
        let mut star: Option<(usize, usize)> = None;
        while at < text.len() || token < self.0.len() {
            match self.0.get(token) {
                Some(Token::Any) => {
                    star = Some((token + 1, at));
                    token += 1;
                    continue;
                }
                Some(single) if text.get(at).is_some_and(|c| single.takes(*c)) => {
                    token += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            match star {
                Some((after, taken)) if text.get(taken).is_some_and(|c| *c != '/') => {
                    star = Some((after, taken + 1));
                    (token, at) = (after, taken + 1);
                }
                _ => return false,
            }
        }
        true
    }
}

impl Token {
    fn takes(&self, character: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => character != '/',
            Self::Set { negated, ranges } => {
                character != '/' && ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) != *negated
            }
            Self::Character(expected) => *expected == character,
        }
    }
}

/// What is between brackets, after the first one.
fn set(rest: &mut std::str::Chars<'_>) -> Option<Token> {
    let negated = rest.as_str().starts_with('^');
    if negated {
        rest.next();
    }
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.as_str().starts_with(']') {
            rest.next();
            return Some(Token::Set { negated, ranges });
        }
        let low = bound(rest)?;
        let mut high = low;
        if rest.as_str().starts_with('-') {
            rest.next();
            high = bound(rest)?;
        }
        ranges.push((low, high));
    }
}

fn bound(rest: &mut std::str::Chars<'_>) -> Option<char> {
    match rest.next()? {
        '\\' => rest.next(),
        '-' | ']' => None,
        character => Some(character),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_go() {
        // From Go's path/match_test.go, and names.
        let cases = [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[x\\-]", "z", false),
            ("*x", "xxx", true),
            ("", "", true),
            ("", "a", false),
            ("busy*", "busybox:latest", true),
            ("busybox:*", "busybox:latest", true),
            ("*/*", "docker.io/a", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(text), expected, "{pattern:?} on {text:?}");
        }
        for bad in ["[", "[^", "[^bc", "a[", "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[]", "\\", "a\\"] {
            assert_eq!(Pattern::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = Pattern::parse(&"*a".repeat(500)).unwrap();
        assert!(!pattern.matches(&"a".repeat(499)));
        assert!(pattern.matches(&"a".repeat(5000)));
    }

    proptest! {
        #[test]
        fn any_text_is_matched_by_itself_and_a_star(text in "[a-z:/.-]{0,20}", tail in "[a-z.-]{0,5}") {
            prop_assert!(Pattern::parse(&text).unwrap().matches(&text));
            let longer = format!("{text}{tail}");
            prop_assert!(Pattern::parse(&format!("{text}*")).unwrap().matches(&longer), "{}", longer);
        }

        #[test]
        fn any_pattern_parses_or_not(pattern in ".{0,20}", text in ".{0,20}") {
            if let Some(pattern) = Pattern::parse(&pattern) {
                let _ = pattern.matches(&text);
            }
        }
    }
}
