//! Templates of `--format`, as Go's `text/template` reads them and Docker's users write them.
//!
//! # The language
//!
//! ```text
//! {{.ID}}  {{.Config.Cmd}}              a field, and one inside it; {{.}} is everything
//! {{json .}}  {{upper .Tag}}            functions, below; {{.Tag | upper}} is the same
//! {{if .X}}…{{else if .Y}}…{{else}}…{{end}}      false are false, 0, "", [], {} and null
//! {{range .X}}…{{else}}…{{end}}         {{range $key, $value := .X}}; objects in the order of their keys
//! {{with .X}}…{{end}}                   . is .X inside, if that is not false
//! {{$name := .X}}  {{$name.Field}}      variables; $ is everything
//! {{.Label "name"}}                     one label, as with Docker
//! {{- .X -}}                            takes the white space before and after away
//! {{/* comment */}}                     nothing
//! ```
//!
//! | functions | |
//! |---|---|
//! | of text | `upper lower title join split truncate pad print printf println` |
//! | of values | `json len index slice` |
//! | of truth | `and or not eq ne lt le gt ge` |
//!
//! What Go has beyond that (`define`, `template`, `block`, `break`, `continue`, `call`, methods) is refused by name.
//! A field that is not there is an error that says which are; a key that `index` does not find is the empty text.
//! `null` is written `<no value>`.
//!
//! # Why not a library
//!
//! What there is for Rust is not kept any more, and does not bound what a template may do. This one does: a template
//! has at most [`LENGTH_MAX`] bytes and [`DEPTH_MAX`] levels, and rendering ends with an error at [`STEPS_MAX`] steps
//! or [`BYTES_MAX`] bytes. There are no loops but over values, and no recursion, so that it always ends.

mod functions;
mod lexer;
mod parser;
mod render;
mod text;

use serde_json::Value;

/// Bytes of a template.
pub(crate) const LENGTH_MAX: usize = 64 << 10;

/// How deeply actions and parentheses may be nested.
pub(crate) const DEPTH_MAX: usize = 32;

/// Commands that are evaluated while rendering one value.
pub(crate) const STEPS_MAX: u32 = 2_000_000;

/// Bytes of text that are made while rendering one value, output and what is thrown away.
pub(crate) const BYTES_MAX: usize = 64 << 20;

/// A template that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template {
    nodes: Vec<parser::Node>,
    /// Characters that were before it where the user wrote it.
    origin: usize,
}

/// A template that cannot be understood, or not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template, character {}: {problem}", position + 1)]
pub(crate) struct TemplateError {
    /// Where in the template, in characters from 0.
    pub(crate) position: usize,
    /// What is wrong there.
    pub(crate) problem: String,
}

/// Whether `\t` and `\n` outside of actions are what they mean: so in lists, not so in `inspect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Escapes {
    Meant,
    Literal,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    ///
    /// What is wrong, and where.
    pub(crate) fn parse(text: &str, escapes: Escapes) -> Result<Self, TemplateError> {
        Self::parse_behind(0, text, escapes)
    }

    /// Reads a template that begins at the character `origin` of what the user wrote.
    ///
    /// # Errors
    ///
    /// As [`Template::parse`].
    pub(crate) fn parse_behind(origin: usize, text: &str, escapes: Escapes) -> Result<Self, TemplateError> {
        if text.len() > LENGTH_MAX {
            return Err(TemplateError { position: origin, problem: format!("it is longer than {LENGTH_MAX} bytes") });
        }
        let nodes = lexer::lex(text, escapes).and_then(parser::parse).map_err(|error| error.behind(origin))?;
        Ok(Self { nodes, origin })
    }

    /// What it makes of a value.
    ///
    /// # Errors
    ///
    /// What is not there or not as the template has it, and where.
    pub(crate) fn render(&self, value: &Value) -> Result<String, TemplateError> {
        render::render(&self.nodes, value, render::Mode::Values).map_err(|error| error.behind(self.origin))
    }

    /// The header of a table of what it makes: each field is its title in `titles`, and functions leave it so.
    ///
    /// # Errors
    ///
    /// As [`Template::render`].
    pub(crate) fn header(&self, titles: &Value) -> Result<String, TemplateError> {
        render::render(&self.nodes, titles, render::Mode::Titles).map_err(|error| error.behind(self.origin))
    }
}

impl TemplateError {
    fn behind(self, origin: usize) -> Self {
        Self { position: self.position + origin, ..self }
    }
}

#[cfg(test)]
mod tests;
