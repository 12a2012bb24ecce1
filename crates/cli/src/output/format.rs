//! `--format`: how lists and single things are written, with the names that Docker has for their fields.

use std::{
    fmt,
    io::{self, Write},
    str::FromStr,
};

use serde_json::{Map, Value};

use crate::output::{
    table,
    template::{Escapes, Template, TemplateError},
};

/// How a list is written.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum ListFormat {
    /// The columns that the command has by itself.
    #[default]
    Table,
    /// `table {{.A}}\t{{.B}}`: columns with their titles.
    Columns(Template),
    /// One object a line.
    Json,
    /// A line for each row.
    Lines(Template),
}

/// How single things are written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum InspectFormat {
    /// One object a line.
    Json,
    /// A line for each thing.
    Lines(Template),
}

/// A text that is no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("it is {known} nor a template, as in '{{{{.ID}}}}'")]
    Unknown { known: &'static str },
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl FromStr for ListFormat {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "" | "table" => return Ok(Self::Table),
            "json" => return Ok(Self::Json),
            _ if !text.contains("{{") => return Err(FormatError::Unknown { known: "neither table nor json," }),
            _ => {}
        }
        let columns = text.strip_prefix("table").filter(|rest| rest.starts_with([' ', '\t', '{']));
        Ok(match columns.map(str::trim_start) {
            Some(columns) => {
                Self::Columns(Template::parse_behind(text.len() - columns.len(), columns, Escapes::Meant)?)
            }
            None => Self::Lines(Template::parse(text, Escapes::Meant)?),
        })
    }
}

impl FromStr for InspectFormat {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "" | "json" => Ok(Self::Json),
            _ if !text.contains("{{") => Err(FormatError::Unknown { known: "neither json" }),
            _ => Ok(Self::Lines(Template::parse(text, Escapes::Literal)?)),
        }
    }
}

/// What a list can show: the fields of its rows, each with its title.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields(pub(crate) &'static [(&'static str, &'static str)]);

/// A row of a list: fields by name, and labels that a template can ask for one by one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    fields: Value,
    labels: Option<Map<String, Value>>,
}

impl Row {
    /// The row with these fields.
    pub(crate) fn new<const N: usize>(fields: [(&str, Value); N]) -> Self {
        Self::of(Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
    }

    /// The row with other values for these fields.
    pub(crate) fn with<const N: usize>(mut self, fields: [(&str, Value); N]) -> Self {
        for (name, value) in fields {
            self.fields[name] = value;
        }
        self
    }

    /// The row with the fields of an object.
    pub(crate) fn of(fields: Value) -> Self {
        Self { fields, labels: None }
    }

    /// The row with labels for `{{.Label "name"}}`.
    pub(crate) fn labelled<'l>(mut self, labels: impl IntoIterator<Item = (&'l String, &'l String)>) -> Self {
        self.labels = Some(labels.into_iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect());
        self
    }

    /// What a template sees.
    fn for_template(&self) -> Value {
        let mut fields = self.fields.clone();
        if let Some(labels) = &self.labels {
            fields["Label"] = Value::Object(labels.clone());
        }
        fields
    }

    pub(crate) fn into_value(self) -> Value {
        self.fields
    }

    fn text(&self, field: &str) -> String {
        match &self.fields[field] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields.fmt(f)
    }
}

/// Writes a list. `columns` are the fields that its own table shows.
pub(crate) fn write_list(
    out: &mut dyn Write,
    format: &ListFormat,
    fields: Fields,
    columns: &[&str],
    rows: &[Row],
) -> anyhow::Result<()> {
    match format {
        ListFormat::Table => {
            let title = |column: &&str| fields.title(column);
            let header: Vec<&str> = columns.iter().map(title).collect();
            let cells = |row: &Row| columns.iter().map(|column| row.text(column)).collect();
            table::write(out, &header, &rows.iter().map(cells).collect::<Vec<_>>())?;
        }
        ListFormat::Columns(template) => {
            let titles = fields.0.iter().chain(&[("Label", "LABEL")]);
            let titles = titles.map(|(field, title)| ((*field).to_owned(), Value::from(*title)));
            let header = template.header(&Value::Object(titles.collect::<Map<_, _>>()))?;
            let cells = |text: String| text.split('\t').map(str::to_owned).collect::<Vec<_>>();
            let lines = rows.iter().map(|row| Ok(cells(template.render(&row.for_template())?)));
            let lines = lines.collect::<Result<Vec<_>, TemplateError>>()?;
            let header = cells(header);
            table::write(out, &header.iter().map(String::as_str).collect::<Vec<_>>(), &lines)?;
        }
        ListFormat::Json => rows.iter().try_for_each(|row| writeln!(out, "{row}"))?,
        ListFormat::Lines(template) => write_lines(out, template, rows.iter().map(Row::for_template))?,
    }
    Ok(())
}

/// Writes things as `inspect` does: a list of them in JSON, or what the format makes of each.
pub(crate) fn write_things(
    out: &mut dyn Write,
    format: Option<&InspectFormat>,
    things: &[Value],
) -> anyhow::Result<()> {
    match format {
        None => writeln!(out, "{}", serde_json::to_string_pretty(things)?)?,
        Some(InspectFormat::Json) => things.iter().try_for_each(|thing| writeln!(out, "{thing}"))?,
        Some(InspectFormat::Lines(template)) => write_lines(out, template, things.iter().cloned())?,
    }
    Ok(())
}

fn write_lines(out: &mut dyn Write, template: &Template, values: impl Iterator<Item = Value>) -> anyhow::Result<()> {
    for value in values {
        writeln!(out, "{}", template.render(&value)?)?;
    }
    Ok(())
}

impl Fields {
    fn title(self, field: &str) -> &'static str {
        self.0.iter().find(|(known, _)| *known == field).map_or("", |(_, title)| title)
    }
}

/// Runs `write` with standard output behind a buffer: a list is a few system calls, not one a line.
pub(crate) fn to_stdout(write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    write(&mut out)?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: Fields = Fields(&[("ID", "IMAGE ID"), ("Tag", "TAG"), ("Labels", "LABELS")]);

    fn written(format: &str) -> String {
        let rows = [
            Row::new([("ID", "0123".into()), ("Tag", "v1".into()), ("Labels", Value::Null)]),
            Row::new([("ID", "45".into()), ("Tag", "a\u{1b}[31m".into()), ("Labels", 7.into())]),
        ];
        let mut out = Vec::new();
        match format.parse().map(|format| write_list(&mut out, &format, FIELDS, &["ID", "Tag"], &rows)) {
            Ok(Ok(())) => String::from_utf8(out).unwrap(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn lists() {
        assert_eq!(written("table"), "IMAGE ID   TAG\n0123       v1\n45         a\\u{1b}[31m\n");
        assert_eq!(written(""), written("table"));
        assert_eq!(written("json").lines().next(), Some(r#"{"ID":"0123","Labels":null,"Tag":"v1"}"#));
        assert_eq!(written(r"table {{.Tag}}\t{{upper .ID}}").lines().next(), Some("TAG           IMAGE ID"));
        assert_eq!(written("{{.ID}}").lines().collect::<Vec<_>>(), ["0123", "45"]);
        assert_eq!(written("xml"), "it is neither table nor json, nor a template, as in '{{.ID}}'");
        assert!(written("{{.Foo}}").contains("there are: .ID, .Labels, .Tag"));
    }

    #[test]
    fn things() {
        let things = [serde_json::json!({ "Id": "x", "Config": { "Cmd": ["a"] } })];
        let written = |format: Option<&str>| {
            let mut out = Vec::new();
            let format = format.map(|format| format.parse().unwrap());
            write_things(&mut out, format.as_ref(), &things).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert!(written(None).starts_with("[\n  {\n"));
        assert_eq!(written(Some("json")), "{\"Config\":{\"Cmd\":[\"a\"]},\"Id\":\"x\"}\n");
        assert_eq!(written(Some("{{.Id}} {{json .Config.Cmd}}")), "x [\"a\"]\n");
    }
}
