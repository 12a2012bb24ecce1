//! A tree and a value to text.

use std::borrow::Cow;

use serde_json::Value;

use super::{
    BYTES_MAX, STEPS_MAX, TemplateError,
    functions::Function,
    lexer::error,
    parser::{Base, Block, Command, Node, Operand, Pipeline},
    text::{self, kind},
};

/// What a template is rendered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Values,
    /// The header of a table: functions give back the title that they are given.
    Titles,
}

type Result<T> = std::result::Result<T, TemplateError>;

pub(super) fn render(nodes: &[Node], value: &Value, mode: Mode) -> Result<String> {
    let mut renderer = Renderer {
        mode,
        out: String::new(),
        variables: vec![("", Cow::Borrowed(value))],
        steps: STEPS_MAX,
        bytes: BYTES_MAX,
    };
    renderer.nodes(nodes, value)?;
    Ok(renderer.out)
}

struct Renderer<'a> {
    mode: Mode,
    out: String,
    variables: Vec<(&'a str, Cow<'a, Value>)>,
    /// What is left of [`STEPS_MAX`].
    steps: u32,
    /// What is left of [`BYTES_MAX`].
    bytes: usize,
}

impl<'a> Renderer<'a> {
    fn nodes(&mut self, nodes: &'a [Node], dot: &Value) -> Result<()> {
        let known = self.variables.len();
        for node in nodes {
            match node {
                Node::Text(text) => {
                    self.charge(text.len(), 0)?;
                    self.out.push_str(text);
                }
                Node::Output(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    self.charge(text::length(&value), pipeline.position)?;
                    text::write(&mut self.out, &value);
                }
                Node::Variable { names, declares, pipeline } => {
                    let value = self.pipeline(pipeline, dot)?.into_owned();
                    self.set(names, *declares, &value, pipeline.position)?;
                }
                Node::Block { .. } => self.block(node, dot)?,
            }
        }
        self.variables.truncate(known);
        Ok(())
    }

    fn set(&mut self, names: &'a [String], declares: bool, value: &Value, position: usize) -> Result<()> {
        self.charge(text::length(value), position)?;
        for name in names {
            let known = self.variables.iter_mut().rev().find(|(known, _)| known == name);
            match known.filter(|_| !declares) {
                Some((_, place)) => *place = Cow::Owned(value.clone()),
                None => self.variables.push((name, Cow::Owned(value.clone()))),
            }
        }
        Ok(())
    }

    fn block(&mut self, node: &'a Node, dot: &Value) -> Result<()> {
        let Node::Block { kind, names, pipeline, body, otherwise } = node else { return Ok(()) };
        let known = self.variables.len();
        let value = self.pipeline(pipeline, dot)?.into_owned();
        self.charge(text::length(&value), pipeline.position)?;
        if !text::is_true(&value) {
            self.nodes(otherwise, dot)?;
        } else if *kind == Block::Range {
            self.range(names, &value, body, pipeline.position)?;
        } else {
            self.set(names, true, &value, pipeline.position)?;
            self.nodes(body, if *kind == Block::With { &value } else { dot })?;
        }
        self.variables.truncate(known);
        Ok(())
    }

    fn range(&mut self, names: &'a [String], value: &Value, body: &'a [Node], position: usize) -> Result<()> {
        match value {
            Value::Array(values) => {
                values.iter().enumerate().try_for_each(|(at, one)| self.turn(names, &at.into(), one, body, position))
            }
            Value::Object(fields) => {
                fields.iter().try_for_each(|(key, one)| self.turn(names, &key.as_str().into(), one, body, position))
            }
            title if self.mode == Mode::Titles => self.turn(names, title, title, body, position),
            other => Err(error(position, format!("range takes a list or an object, not {}", kind(other)))),
        }
    }

    fn turn(&mut self, names: &'a [String], key: &Value, one: &Value, body: &'a [Node], position: usize) -> Result<()> {
        let known = self.variables.len();
        if let [key_name, _] = names {
            self.set(std::slice::from_ref(key_name), true, key, position)?;
        }
        if let Some(last) = names.len().checked_sub(1) {
            self.set(&names[last..], true, one, position)?;
        }
        self.step(position)?;
        self.nodes(body, one)?;
        self.variables.truncate(known);
        Ok(())
    }

    fn pipeline<'d>(&mut self, pipeline: &'a Pipeline, dot: &'d Value) -> Result<Cow<'d, Value>> {
        let mut piped: Option<Cow<'d, Value>> = None;
        for command in &pipeline.commands {
            piped = Some(match command {
                Command::Value(operand) => self.operand(operand, dot)?,
                Command::Call { function, arguments, position } => {
                    self.call(*function, arguments, piped, dot, *position)?
                }
            });
        }
        Ok(piped.unwrap_or(Cow::Owned(Value::Null)))
    }

    fn call<'d>(
        &mut self,
        function: Function,
        arguments: &'a [Operand],
        piped: Option<Cow<'d, Value>>,
        dot: &'d Value,
        position: usize,
    ) -> Result<Cow<'d, Value>> {
        self.step(position)?;
        let mut values = Vec::with_capacity(arguments.len() + 1);
        let last = arguments.len() + usize::from(piped.is_some());
        let mut piped = piped;
        for at in 0..last {
            let value = match arguments.get(at) {
                Some(argument) => self.operand(argument, dot)?,
                None => piped.take().unwrap_or(Cow::Owned(Value::Null)),
            };
            let decides = match function {
                Function::And => !text::is_true(&value),
                Function::Or => text::is_true(&value),
                _ => false,
            };
            if decides || (matches!(function, Function::And | Function::Or) && at + 1 == last) {
                return Ok(value);
            }
            values.push(value);
        }
        if self.mode == Mode::Titles
            && !matches!(function, Function::Print | Function::Println | Function::Printf)
            && let Some(title) = self.title(&values)
        {
            return Ok(Cow::Owned(title));
        }
        let values: Vec<&Value> = values.iter().map(|value| &**value).collect();
        self.charge(function.cost(&values), position)?;
        let value =
            function.call(&values).map_err(|problem| error(position, format!("{}: {problem}", function.name())))?;
        Ok(Cow::Owned(value))
    }

    /// The title among the values that a function is given: so `{{truncate .ID 5}}` has the title of `.ID`.
    fn title(&self, values: &[Cow<'_, Value>]) -> Option<Value> {
        values.iter().find(|value| value.is_string()).map(|value| value.clone().into_owned())
    }

    fn operand<'d>(&mut self, operand: &'a Operand, dot: &'d Value) -> Result<Cow<'d, Value>> {
        self.step(operand.position)?;
        let base: Cow<'d, Value> = match &operand.base {
            Base::Dot => Cow::Borrowed(dot),
            Base::Literal(value) => Cow::Owned(value.clone()),
            Base::Nested(pipeline) => self.pipeline(pipeline, dot)?,
            Base::Variable(name) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) =
                    found.ok_or_else(|| error(operand.position, format!("there is no variable ${name}")))?;
                let value = field(value, &operand.fields, self.mode, operand.position)?.clone();
                self.charge(text::length(&value), operand.position)?;
                return Ok(Cow::Owned(value));
            }
        };
        match base {
            Cow::Borrowed(value) => field(value, &operand.fields, self.mode, operand.position).map(Cow::Borrowed),
            Cow::Owned(value) => field(&value, &operand.fields, self.mode, operand.position).cloned().map(Cow::Owned),
        }
    }

    fn step(&mut self, position: usize) -> Result<()> {
        self.steps = self.steps.checked_sub(1).ok_or_else(|| error(position, "this takes too many steps"))?;
        Ok(())
    }

    fn charge(&mut self, bytes: usize, position: usize) -> Result<()> {
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.ok_or_else(|| error(position, "this makes too much text"))?;
        Ok(())
    }
}

fn field<'v>(value: &'v Value, fields: &[String], mode: Mode, position: usize) -> Result<&'v Value> {
    let mut found = value;
    for name in fields {
        found = match found {
            Value::Object(fields) => fields.get(name).ok_or_else(|| missing(name, fields, position))?,
            Value::Null => found,
            Value::String(_) if mode == Mode::Titles => found,
            other => return Err(error(position, format!("{} has no field .{name}", kind(other)))),
        };
    }
    Ok(found)
}

fn missing(name: &str, fields: &serde_json::Map<String, Value>, position: usize) -> TemplateError {
    const SHOWN: usize = 40;
    let mut known: Vec<_> = fields.keys().take(SHOWN).map(|known| format!(".{known}")).collect();
    if fields.len() > SHOWN {
        known.push("…".to_owned());
    }
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    error(position, format!("there is no field .{name}; there are: {known}"))
}
