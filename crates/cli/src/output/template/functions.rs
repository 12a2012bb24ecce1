//! The functions of a template.

use std::cmp::Ordering;

use serde_json::{Number, Value, json};

use super::{
    TemplateError,
    lexer::error,
    text::{self, kind},
};

/// Most texts that `split` makes.
const PARTS_MAX: usize = 100_000;

/// Widest column that `pad` makes on a side.
const PAD_MAX: u64 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    And,
    Compare(Comparison),
    Index,
    Join,
    Json,
    Len,
    Lower,
    Not,
    Or,
    Pad,
    Print,
    Printf,
    Println,
    Slice,
    Split,
    Title,
    Truncate,
    Upper,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

const NAMES: [(&str, Function); 23] = [
    ("and", Function::And),
    ("eq", Function::Compare(Comparison::Eq)),
    ("ge", Function::Compare(Comparison::Ge)),
    ("gt", Function::Compare(Comparison::Gt)),
    ("index", Function::Index),
    ("join", Function::Join),
    ("json", Function::Json),
    ("le", Function::Compare(Comparison::Le)),
    ("len", Function::Len),
    ("lower", Function::Lower),
    ("lt", Function::Compare(Comparison::Lt)),
    ("ne", Function::Compare(Comparison::Ne)),
    ("not", Function::Not),
    ("or", Function::Or),
    ("pad", Function::Pad),
    ("print", Function::Print),
    ("printf", Function::Printf),
    ("println", Function::Println),
    ("slice", Function::Slice),
    ("split", Function::Split),
    ("title", Function::Title),
    ("truncate", Function::Truncate),
    ("upper", Function::Upper),
];

type Result<T> = std::result::Result<T, String>;

impl Function {
    /// The function of that name.
    pub(super) fn named(name: &str, position: usize) -> std::result::Result<Self, TemplateError> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, function)| *function).ok_or_else(|| {
            let known: Vec<_> = NAMES.iter().map(|(known, _)| *known).collect();
            error(position, format!("there is no function {name:?}, only {}", known.join(", ")))
        })
    }

    pub(super) fn name(self) -> &'static str {
        NAMES.iter().find(|(_, function)| *function == self).map_or("", |(name, _)| name)
    }

    /// How many bytes its result can have at most, so that it is not made when that is too much.
    pub(super) fn cost(self, arguments: &[&Value]) -> usize {
        let all = || arguments.iter().map(|value| text::length(value) + 1).sum::<usize>();
        match self {
            Self::Compare(_) | Self::Len | Self::Not | Self::Index | Self::And | Self::Or => 0,
            // Control characters are six bytes each.
            Self::Json => all().saturating_mul(6),
            Self::Join => all() + arguments.last().map_or(0, |by| text::length(by)).saturating_mul(elements(arguments)),
            Self::Printf => all().saturating_mul(6).saturating_add(arguments.len() * 1000),
            Self::Pad => all() + 2000,
            _ => all().saturating_mul(2),
        }
    }

    /// Its value. `and` and `or` are evaluated elsewhere, for they do not take all of theirs.
    pub(super) fn call(self, arguments: &[&Value]) -> Result<Value> {
        match (self, arguments) {
            (Self::Upper, [Value::String(text)]) => Ok(text.to_uppercase().into()),
            (Self::Lower, [Value::String(text)]) => Ok(text.to_lowercase().into()),
            (Self::Title, [Value::String(text)]) => Ok(title(text).into()),
            (Self::Json, [value]) => Ok(text::json(value).into()),
            (Self::Not, [value]) => Ok((!text::is_true(value)).into()),
            (Self::Len, [value]) => length(value),
            (Self::Join, [Value::Array(values), Value::String(by)]) => {
                Ok(values.iter().map(text::of).collect::<Vec<_>>().join(by).into())
            }
            (Self::Join, [Value::Null, Value::String(_)]) => Ok("".into()),
            (Self::Split, [Value::String(text), Value::String(by)]) => split(text, by),
            (Self::Truncate, [Value::String(text), Value::Number(length)]) => {
                let length = usize::try_from(whole(length)?).unwrap_or(usize::MAX);
                Ok(text.chars().take(length).collect::<String>().into())
            }
            (Self::Pad, [Value::String(text), Value::Number(before), Value::Number(after)]) => pad(text, before, after),
            (Self::Print, values) => Ok(print(values).into()),
            (Self::Println, values) => {
                Ok((values.iter().map(|v| text::of(v)).collect::<Vec<_>>().join(" ") + "\n").into())
            }
            (Self::Printf, [Value::String(format), values @ ..]) => Ok(text::printf(format, values)?.into()),
            (Self::Index, [value, keys @ ..]) => index(value, keys),
            (Self::Slice, [value, bounds @ ..]) if bounds.len() <= 2 => slice(value, bounds),
            (Self::Compare(comparison), [one, others @ ..]) if !others.is_empty() => comparison.of(one, others),
            (_, arguments) => {
                let given: Vec<_> = arguments.iter().map(|value| kind(value)).collect();
                let given = if given.is_empty() { "nothing".to_owned() } else { given.join(" and ") };
                Err(format!("it takes {}, not {given}", self.takes()))
            }
        }
    }

    fn takes(self) -> &'static str {
        match self {
            Self::Upper | Self::Lower | Self::Title => "a text",
            Self::Json | Self::Not | Self::Len => "one value",
            Self::Join => "a list and a text to put between",
            Self::Split => "a text and the text to split it at",
            Self::Truncate => "a text and a length",
            Self::Pad => "a text and the blanks before and after it",
            Self::Printf => "a format, then values",
            Self::Slice => "a list or a text, and where it begins and ends",
            Self::Index => "a list or an object, then keys",
            Self::Compare(_) => "two values",
            Self::And | Self::Or | Self::Print | Self::Println => "values",
        }
    }
}

impl Comparison {
    fn of(self, one: &Value, others: &[&Value]) -> Result<Value> {
        if self == Self::Eq {
            return Ok(others.iter().any(|other| equal(one, other)).into());
        }
        let [other] = others else { return Err("it takes two values".to_owned()) };
        if self == Self::Ne {
            return Ok((!equal(one, other)).into());
        }
        let ordering =
            order(one, other).ok_or_else(|| format!("{} and {} cannot be compared", kind(one), kind(other)))?;
        Ok(match self {
            Self::Lt => ordering.is_lt(),
            Self::Le => ordering.is_le(),
            Self::Gt => ordering.is_gt(),
            _ => ordering.is_ge(),
        }
        .into())
    }
}

fn equal(one: &Value, other: &Value) -> bool {
    one == other || order(one, other) == Some(Ordering::Equal)
}

fn order(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        (Value::Number(one), Value::Number(other)) => match (one.as_i64(), other.as_i64()) {
            (Some(one), Some(other)) => Some(one.cmp(&other)),
            _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
        },
        _ => None,
    }
}

fn elements(arguments: &[&Value]) -> usize {
    arguments.first().and_then(|value| value.as_array()).map_or(0, Vec::len)
}

fn whole(number: &Number) -> Result<u64> {
    number.as_u64().ok_or_else(|| format!("{number} is not a whole number from 0"))
}

/// Every word with a capital.
fn title(text: &str) -> String {
    let mut before = ' ';
    let letters = text.chars().flat_map(|character| {
        let begins = !before.is_alphanumeric();
        before = character;
        let upper = begins.then(|| character.to_uppercase());
        upper.into_iter().flatten().chain((!begins).then_some(character))
    });
    letters.collect()
}

fn length(value: &Value) -> Result<Value> {
    Ok(json!(match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.len(),
        Value::Object(fields) => fields.len(),
        Value::Null => 0,
        other => return Err(format!("{} has no length", kind(other))),
    }))
}

fn split(text: &str, by: &str) -> Result<Value> {
    let parts: Vec<Value> = if by.is_empty() {
        text.chars().take(PARTS_MAX + 1).map(|c| c.to_string().into()).collect()
    } else {
        text.split(by).take(PARTS_MAX + 1).map(Value::from).collect()
    };
    if parts.len() > PARTS_MAX { Err(format!("it makes more than {PARTS_MAX} texts")) } else { Ok(parts.into()) }
}

fn pad(text: &str, before: &Number, after: &Number) -> Result<Value> {
    let blanks = |number: &Number| match whole(number)? {
        // Docker leaves an empty text alone.
        _ if text.is_empty() => Ok(String::new()),
        count @ 0..=PAD_MAX => Ok(" ".repeat(usize::try_from(count).unwrap_or(0))),
        _ => Err(format!("{number} blanks are too many")),
    };
    Ok(format!("{}{text}{}", blanks(before)?, blanks(after)?).into())
}

/// Values next to each other, with a blank between two that are no texts.
fn print(values: &[&Value]) -> String {
    let mut out = String::new();
    for (index, value) in values.iter().enumerate() {
        if index > 0 && !values[index - 1].is_string() && !value.is_string() {
            out.push(' ');
        }
        text::write(&mut out, value);
    }
    out
}

fn index(value: &Value, keys: &[&Value]) -> Result<Value> {
    let mut found = value;
    for (depth, key) in keys.iter().enumerate() {
        found = match (found, key) {
            (Value::Object(fields), Value::String(key)) => match fields.get(key) {
                Some(field) => field,
                None if depth + 1 == keys.len() => return Ok("".into()),
                None => &Value::Null,
            },
            (Value::Array(values), Value::Number(number)) => {
                let at = usize::try_from(whole(number)?).unwrap_or(usize::MAX);
                let count = values.len();
                values.get(at).ok_or_else(|| format!("there is no {number} in a list of {count}"))?
            }
            (Value::Null, Value::String(_)) => return Ok("".into()),
            (found, key) => return Err(format!("{} has no {}", kind(found), text::of(key))),
        };
    }
    Ok(found.clone())
}

fn slice(value: &Value, bounds: &[&Value]) -> Result<Value> {
    let length = match value {
        Value::String(text) => text.chars().count(),
        Value::Array(values) => values.len(),
        other => return Err(format!("{} has no parts", kind(other))),
    };
    let bound = |at: usize, default: usize| match bounds.get(at) {
        None => Ok(default),
        Some(Value::Number(number)) => usize::try_from(whole(number)?).map_err(|error| error.to_string()),
        Some(other) => Err(format!("{} is no place", kind(other))),
    };
    let (start, end) = (bound(0, 0)?, bound(1, length)?);
    if start > end || end > length {
        return Err(format!("there is no part from {start} to {end} in a length of {length}"));
    }
    Ok(match value {
        Value::Array(values) => values[start..end].to_vec().into(),
        other => text::of(other).chars().skip(start).take(end - start).collect::<String>().into(),
    })
}
