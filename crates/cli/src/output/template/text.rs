//! Values as text, as Go prints them.

use serde_json::Value;

/// What stands for nothing.
const NO_VALUE: &str = "<no value>";

/// Appends a value as `%v` prints it: `[a b]`, `map[k:v]`.
pub(super) fn write(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str(NO_VALUE),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => out.push_str(text),
        Value::Array(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { " " });
                write(out, value);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push_str("map[");
            for (index, (name, value)) in fields.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { " " });
                out.push_str(name);
                out.push(':');
                write(out, value);
            }
            out.push(']');
        }
    }
}

/// A value as text.
pub(super) fn of(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value);
    text
}

/// Bytes that [`of`] makes of a value, at most.
pub(super) fn length(value: &Value) -> usize {
    match value {
        Value::Null => NO_VALUE.len(),
        Value::Bool(_) => 5,
        Value::Number(_) => 24,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(|value| 1 + length(value)).sum::<usize>() + 2,
        Value::Object(fields) => fields.iter().map(|(name, value)| 2 + name.len() + length(value)).sum::<usize>() + 5,
    }
}

/// What a value is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// What `if` makes of a value.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// JSON on one line.
pub(super) fn json(value: &Value) -> String {
    value.to_string()
}

/// `printf` with the verbs `%s %v %d %q %t %x %%`, a width, `-` and a precision.
pub(super) fn printf(format: &str, values: &[&Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut flags = String::new();
        while let Some(flag) = characters.next_if(|c| matches!(c, '-' | '0'..='9' | '.')) {
            flags.push(flag);
        }
        match characters.next() {
            Some('%') => out.push('%'),
            None => return Err("its format ends with %".to_owned()),
            Some(verb) => {
                let value = values.next().ok_or_else(|| format!("there is no value for %{flags}{verb}"))?;
                out.push_str(&padded(verb_text(verb, value)?, &flags)?);
            }
        }
    }
    match values.len() {
        0 => Ok(out),
        more => Err(format!("{more} more values than its format takes")),
    }
}

fn verb_text(verb: char, value: &Value) -> Result<String, String> {
    match (verb, value) {
        ('s' | 'v', value) => Ok(of(value)),
        ('q', Value::String(text)) => Ok(format!("{text:?}")),
        ('d', Value::Number(number)) => Ok(number.to_string()),
        ('x', Value::Number(number)) if number.is_u64() => Ok(format!("{:x}", number.as_u64().unwrap_or(0))),
        ('t', Value::Bool(value)) => Ok(value.to_string()),
        ('q' | 'd' | 'x' | 't', value) => Err(format!("%{verb} cannot print {}", kind(value))),
        (verb, _) => Err(format!("%{verb} is not supported: use %s %v %d %q %t %x")),
    }
}

fn padded(text: String, flags: &str) -> Result<String, String> {
    const WIDTH_MAX: usize = 1000;
    let (width, precision) = flags.split_once('.').map_or((flags, None), |(width, precision)| (width, Some(precision)));
    let (left, width) = width.strip_prefix('-').map_or((false, width), |width| (true, width));
    let number = |digits: &str| match digits {
        "" => Ok(0),
        digits => digits.parse().ok().filter(|&n| n <= WIDTH_MAX).ok_or_else(|| format!("%{flags} is no width")),
    };
    let text = match precision {
        Some(precision) => text.chars().take(number(precision)?).collect(),
        None => text,
    };
    let zeros = width.starts_with('0');
    let width = number(width)?;
    Ok(match (left, zeros) {
        (true, _) => format!("{text:<width$}"),
        (false, true) => format!("{text:0>width$}"),
        (false, false) => format!("{text:>width$}"),
    })
}
