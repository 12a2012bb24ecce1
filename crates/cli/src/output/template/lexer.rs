//! Text to tokens: what stands between actions, and the words inside of them.

use serde_json::Number;

use super::{Escapes, TemplateError};

/// A part of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Segment {
    /// What is written as it is.
    Text(String),
    /// `{{…}}`
    Action(Vec<Token>),
}

/// A word of an action, and where it is, in characters of the template.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) position: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// `.` alone.
    Dot,
    /// `.name`, directly behind what it is a field of, or at the beginning of a word.
    Field {
        name: String,
        attached: bool,
    },
    /// `$name`; empty for `$`.
    Variable(String),
    /// A keyword, a function, `true`, `false` or `nil`.
    Word(String),
    Text(String),
    Number(Number),
    Open,
    Close,
    Pipe,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

pub(super) fn lex(text: &str, escapes: Escapes) -> Result<Vec<Segment>, TemplateError> {
    Lexer { characters: text.chars().collect(), at: 0 }.segments(escapes)
}

struct Lexer {
    characters: Vec<char>,
    at: usize,
}

impl Lexer {
    fn segments(mut self, escapes: Escapes) -> Result<Vec<Segment>, TemplateError> {
        let mut segments = Vec::new();
        let mut trim = false;
        while self.at < self.characters.len() {
            let start = self.at;
            while self.at < self.characters.len() && !self.looks_at("{{") {
                self.at += 1;
            }
            let mut text: String = self.characters[start..self.at].iter().collect();
            if trim {
                text = text.trim_start().to_owned();
            }
            trim = false;
            let action = if self.at < self.characters.len() {
                let opened = self.at;
                self.at += 2;
                if self.peek() == Some('-') && self.peek_at(1).is_some_and(char::is_whitespace) {
                    text.truncate(text.trim_end().len());
                    self.at += 1;
                }
                Some(self.action(opened, &mut trim)?)
            } else {
                None
            };
            if escapes == Escapes::Meant {
                text = text.replace("\\t", "\t").replace("\\n", "\n");
            }
            if !text.is_empty() {
                segments.push(Segment::Text(text));
            }
            segments.extend(action.filter(|tokens| !tokens.is_empty()).map(Segment::Action));
        }
        Ok(segments)
    }

    /// The tokens up to and without `}}`; `trim` if what follows is to lose its white space. A comment has none.
    fn action(&mut self, opened: usize, trim: &mut bool) -> Result<Vec<Token>, TemplateError> {
        self.skip_space();
        if self.looks_at("/*") {
            self.comment(opened, trim)?;
            return Ok(Vec::new());
        }
        let mut tokens = Vec::new();
        loop {
            let spaced = self.skip_space();
            if self.closes(spaced, trim) {
                break;
            }
            let position = self.at;
            let Some(character) = self.peek() else {
                return Err(error(opened, "this {{ is not closed by }}"));
            };
            let kind = self.token(character, spaced || tokens.is_empty())?;
            tokens.push(Token { kind, position });
        }
        if tokens.is_empty() { Err(error(opened, "an action is empty")) } else { Ok(tokens) }
    }

    /// Takes `}}` or `-}}`.
    fn closes(&mut self, spaced: bool, trim: &mut bool) -> bool {
        *trim = spaced && self.looks_at("-}}");
        let length = if *trim { 3 } else { 2 };
        let closes = *trim || self.looks_at("}}");
        self.at += if closes { length } else { 0 };
        closes
    }

    fn comment(&mut self, opened: usize, trim: &mut bool) -> Result<(), TemplateError> {
        self.at += 2;
        while !self.looks_at("*/") {
            if self.at >= self.characters.len() {
                return Err(error(opened, "this comment is not closed by */"));
            }
            self.at += 1;
        }
        self.at += 2;
        let spaced = self.skip_space();
        if self.closes(spaced, trim) { Ok(()) } else { Err(error(opened, "a comment must be alone in its action")) }
    }

    fn token(&mut self, character: char, begins: bool) -> Result<Kind, TemplateError> {
        let position = self.at;
        self.at += 1;
        Ok(match character {
            '(' => Kind::Open,
            ')' => Kind::Close,
            '|' => Kind::Pipe,
            ',' => Kind::Comma,
            '=' => Kind::Assign,
            ':' if self.peek() == Some('=') => {
                self.at += 1;
                Kind::Declare
            }
            '.' if self.peek().is_some_and(|c| is_word(c) && !c.is_ascii_digit()) => {
                Kind::Field { name: self.word(), attached: !begins }
            }
            '.' => Kind::Dot,
            '$' => Kind::Variable(self.word()),
            '"' => Kind::Text(self.quoted(position)?),
            '`' => Kind::Text(self.raw(position)?),
            c if c.is_ascii_digit() || (matches!(c, '-' | '+') && self.peek().is_some_and(|c| c.is_ascii_digit())) => {
                self.number(position)?
            }
            c if is_word(c) => {
                self.at = position;
                Kind::Word(self.word())
            }
            c => return Err(error(position, format!("unexpected {c:?}"))),
        })
    }

    fn word(&mut self) -> String {
        let start = self.at;
        while self.peek().is_some_and(is_word) {
            self.at += 1;
        }
        self.characters[start..self.at].iter().collect()
    }

    fn number(&mut self, start: usize) -> Result<Kind, TemplateError> {
        while self.peek().is_some_and(|c| is_word(c) || c == '.') {
            self.at += 1;
        }
        let text: String = self.characters[start..self.at].iter().collect();
        let whole = text.parse::<i64>().ok().map(Number::from);
        let number = whole.or_else(|| Number::from_f64(text.parse().ok()?));
        number.map(Kind::Number).ok_or_else(|| error(start, format!("{text:?} is not a number")))
    }

    fn raw(&mut self, opened: usize) -> Result<String, TemplateError> {
        let start = self.at;
        while self.peek().is_some_and(|c| c != '`') {
            self.at += 1;
        }
        let text = self.characters[start..self.at].iter().collect();
        self.at += 1;
        if self.at > self.characters.len() { Err(unclosed(opened)) } else { Ok(text) }
    }

    fn quoted(&mut self, opened: usize) -> Result<String, TemplateError> {
        let mut text = String::new();
        loop {
            let character = self.peek().filter(|&c| c != '\n').ok_or_else(|| unclosed(opened))?;
            self.at += 1;
            match character {
                '"' => return Ok(text),
                '\\' => text.push(self.escape(opened)?),
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self, opened: usize) -> Result<char, TemplateError> {
        let position = self.at - 1;
        let character = self.peek().ok_or_else(|| unclosed(opened))?;
        self.at += 1;
        let digits = match character {
            'n' => return Ok('\n'),
            't' => return Ok('\t'),
            'r' => return Ok('\r'),
            '\\' | '"' | '\'' => return Ok(character),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            c => return Err(error(position, format!("unknown escape \\{c}"))),
        };
        let end = (self.at + digits).min(self.characters.len());
        let hex: String = self.characters[self.at..end].iter().collect();
        self.at = end;
        let whole = hex.len() == digits && hex.bytes().all(|b| b.is_ascii_hexdigit());
        let code = u32::from_str_radix(&hex, 16).ok().filter(|_| whole);
        code.and_then(char::from_u32).ok_or_else(|| error(position, format!("\\{character}{hex} is no character")))
    }

    /// Whether there was any.
    fn skip_space(&mut self) -> bool {
        let start = self.at;
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
        self.at > start
    }

    fn peek(&self) -> Option<char> {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> Option<char> {
        self.characters.get(self.at + ahead).copied()
    }

    fn looks_at(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(ahead, c)| self.peek_at(ahead) == Some(c))
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn unclosed(opened: usize) -> TemplateError {
    error(opened, "this text is not closed by the quote that opened it")
}

pub(super) fn error(position: usize, problem: impl Into<String>) -> TemplateError {
    TemplateError { position, problem: problem.into() }
}
