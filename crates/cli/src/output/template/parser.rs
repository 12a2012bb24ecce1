//! Tokens to a tree.

use std::{iter::Peekable, vec};

use serde_json::{Number, Value};

use super::{
    DEPTH_MAX, TemplateError,
    functions::Function,
    lexer::{Kind, Segment, Token, error},
};

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    /// `{{pipeline}}`
    Output(Pipeline),
    /// `{{$name := pipeline}}`, `{{$name = pipeline}}`
    Variable {
        names: Vec<String>,
        declares: bool,
        pipeline: Pipeline,
    },
    /// `{{if}}`, `{{with}}`, `{{range}}`
    Block {
        kind: Block,
        names: Vec<String>,
        pipeline: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    If,
    With,
    Range,
}

/// Commands, each the last argument of the next.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipeline {
    pub(super) commands: Vec<Command>,
    pub(super) position: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    Value(Operand),
    Call { function: Function, arguments: Vec<Operand>, position: usize },
}

/// Something that has a value, and the fields that are taken of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operand {
    pub(super) base: Base,
    pub(super) fields: Vec<String>,
    pub(super) position: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Literal(Value),
    Nested(Pipeline),
}

pub(super) fn parse(segments: Vec<Segment>) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { segments: segments.into_iter(), variables: vec![String::new()], depth: 0 };
    let (nodes, end) = parser.nodes()?;
    match end {
        None => Ok(nodes),
        Some(End { word, position, .. }) => Err(error(position, format!("{{{{{word}}}}} ends nothing"))),
    }
}

/// `{{end}}`, or `{{else}}` with what is behind it.
struct End {
    word: &'static str,
    rest: Words,
    position: usize,
}

struct Parser {
    segments: vec::IntoIter<Segment>,
    /// Those that are known here, `$` first.
    variables: Vec<String>,
    depth: usize,
}

impl Parser {
    /// Nodes up to the end of what they are in.
    fn nodes(&mut self) -> Result<(Vec<Node>, Option<End>), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(segment) = self.segments.next() {
            let tokens = match segment {
                Segment::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Segment::Action(tokens) => tokens,
            };
            let mut words = Words::new(tokens);
            let position = words.position;
            let word = words.keyword();
            match word.as_deref() {
                Some("end") => {
                    words.finish()?;
                    return Ok((nodes, Some(End { word: "end", rest: words, position })));
                }
                Some("else") => return Ok((nodes, Some(End { word: "else", rest: words, position }))),
                Some("if") => nodes.push(self.block(Block::If, words)?),
                Some("with") => nodes.push(self.block(Block::With, words)?),
                Some("range") => nodes.push(self.block(Block::Range, words)?),
                Some(word) => return Err(error(position, format!("{{{{{word}}}}} is not supported"))),
                None => nodes.push(self.action(words)?),
            }
        }
        Ok((nodes, None))
    }

    fn action(&mut self, mut words: Words) -> Result<Node, TemplateError> {
        let Some((names, declares)) = words.variables()? else {
            return Ok(Node::Output(self.whole_pipeline(words)?));
        };
        if names.len() > 1 {
            return Err(error(words.position, "only range takes two variables"));
        }
        if let (false, [name]) = (declares, &names[..]) {
            self.check_variable(name, words.position)?;
        }
        let pipeline = self.whole_pipeline(words)?;
        self.variables.extend(names.iter().filter(|_| declares).cloned());
        Ok(Node::Variable { names, declares, pipeline })
    }

    /// The rest of a block, from behind its keyword to its `{{end}}`.
    fn block(&mut self, kind: Block, mut words: Words) -> Result<Node, TemplateError> {
        let position = words.position;
        self.deeper(position)?;
        let known = self.variables.len();
        let names = match words.variables()? {
            Some((names, true)) if names.len() == 1 || kind == Block::Range => names,
            Some(_) => return Err(error(position, "here a variable is declared with := and one value")),
            None => Vec::new(),
        };
        let pipeline = self.whole_pipeline(words)?;
        self.variables.extend(names.iter().cloned());
        let (body, end) = self.nodes()?;
        self.variables.truncate(known + names.len());
        let otherwise = self.otherwise(kind, end, position)?;
        self.variables.truncate(known);
        self.depth -= 1;
        Ok(Node::Block { kind, names, pipeline, body, otherwise })
    }

    /// What is behind the `{{else}}` of a block, if that is what ended it.
    fn otherwise(&mut self, kind: Block, end: Option<End>, opened: usize) -> Result<Vec<Node>, TemplateError> {
        let unclosed = || error(opened, "this block has no {{end}}");
        let End { word, mut rest, position } = end.ok_or_else(unclosed)?;
        if word == "end" {
            return Ok(Vec::new());
        }
        match rest.keyword().as_deref() {
            None => rest.finish()?,
            // The {{end}} of the inner block is the outer's too.
            Some("if") if kind == Block::If => return Ok(vec![self.block(kind, rest)?]),
            Some("with") if kind == Block::With => return Ok(vec![self.block(kind, rest)?]),
            Some(word) => return Err(error(position, format!("{{{{else {word}}}}} is not possible here"))),
        }
        let (nodes, end) = self.nodes()?;
        match end {
            Some(End { word: "end", .. }) => Ok(nodes),
            Some(End { position, .. }) => Err(error(position, "a block has only one {{else}}")),
            None => Err(unclosed()),
        }
    }

    fn whole_pipeline(&mut self, mut words: Words) -> Result<Pipeline, TemplateError> {
        let pipeline = self.pipeline(&mut words)?;
        words.finish()?;
        Ok(pipeline)
    }

    fn pipeline(&mut self, words: &mut Words) -> Result<Pipeline, TemplateError> {
        let position = words.position;
        let mut commands = vec![self.command(words, true)?];
        while words.take(&Kind::Pipe) {
            commands.push(self.command(words, false)?);
        }
        Ok(Pipeline { commands, position })
    }

    fn command(&mut self, words: &mut Words, first: bool) -> Result<Command, TemplateError> {
        let position = words.position;
        let function = match words.peek() {
            Some(Kind::Word(word)) => literal(word).is_none().then(|| Function::named(word, position)).transpose()?,
            _ => None,
        };
        if let Some(function) = function {
            words.next();
            let mut arguments = Vec::new();
            while let Some(argument) = self.operand(words)? {
                arguments.push(argument);
            }
            return Ok(Command::Call { function, arguments, position });
        }
        let operand = self.operand(words)?.ok_or_else(|| error(words.position, "a value is missing here"))?;
        if !first {
            return Err(error(position, "behind | there must be a function"));
        }
        let Some(key) = self.operand(words)? else { return Ok(Command::Value(operand)) };
        // Docker's only method that is given something.
        let is_label = operand.fields.last().is_some_and(|field| field == "Label");
        if !is_label || self.operand(words)?.is_some() {
            return Err(error(position, "only a function can be given values, and this is none"));
        }
        Ok(Command::Call { function: Function::named("index", position)?, arguments: vec![operand, key], position })
    }

    /// The next operand; `None` where there is something else.
    fn operand(&mut self, words: &mut Words) -> Result<Option<Operand>, TemplateError> {
        let position = words.position;
        let mut fields = Vec::new();
        let base = match words.peek() {
            Some(Kind::Dot) => Base::Dot,
            Some(Kind::Field { name, .. }) => {
                fields.push(name.clone());
                Base::Dot
            }
            Some(Kind::Variable(name)) => {
                let name = name.clone();
                self.check_variable(&name, position)?;
                Base::Variable(name)
            }
            Some(Kind::Text(text)) => Base::Literal(Value::String(text.clone())),
            Some(Kind::Number(number)) => Base::Literal(Value::Number(Number::clone(number))),
            Some(Kind::Word(word)) => match literal(word) {
                Some(value) => Base::Literal(value),
                None => return Err(error(position, format!("{word:?} must be in quotes, or a call in parentheses"))),
            },
            Some(Kind::Open) => {
                words.next();
                return self.nested(words, position).map(Some);
            }
            _ => return Ok(None),
        };
        words.next();
        words.fields(&mut fields);
        Ok(Some(Operand { base, fields, position }))
    }

    fn nested(&mut self, words: &mut Words, position: usize) -> Result<Operand, TemplateError> {
        self.deeper(position)?;
        let pipeline = self.pipeline(words)?;
        if !words.take(&Kind::Close) {
            return Err(error(position, "this ( is not closed by )"));
        }
        self.depth -= 1;
        let mut fields = Vec::new();
        words.fields(&mut fields);
        Ok(Operand { base: Base::Nested(pipeline), fields, position })
    }

    fn check_variable(&self, name: &String, position: usize) -> Result<(), TemplateError> {
        if self.variables.contains(name) {
            Ok(())
        } else {
            Err(error(position, format!("there is no variable ${name}")))
        }
    }

    fn deeper(&mut self, position: usize) -> Result<(), TemplateError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(error(position, format!("over {DEPTH_MAX} levels deep"))) } else { Ok(()) }
    }
}

fn literal(word: &str) -> Option<Value> {
    match word {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        "nil" => Some(Value::Null),
        _ => None,
    }
}

/// The tokens of an action.
struct Words {
    tokens: Peekable<vec::IntoIter<Token>>,
    /// Where the next is, or the last was.
    position: usize,
}

impl Words {
    fn new(tokens: Vec<Token>) -> Self {
        let mut tokens = tokens.into_iter().peekable();
        let position = tokens.peek().map_or(0, |token| token.position);
        Self { tokens, position }
    }

    fn peek(&mut self) -> Option<&Kind> {
        self.tokens.peek().map(|token| &token.kind)
    }

    fn next(&mut self) -> Option<Kind> {
        let token = self.tokens.next()?;
        self.position = self.tokens.peek().map_or(token.position, |next| next.position);
        Some(token.kind)
    }

    fn take(&mut self, kind: &Kind) -> bool {
        let found = self.peek() == Some(kind);
        if found {
            self.next();
        }
        found
    }

    /// Takes a word of the language itself.
    fn keyword(&mut self) -> Option<String> {
        const KEYWORDS: [&str; 10] =
            ["if", "else", "end", "range", "with", "define", "template", "block", "break", "continue"];
        match self.peek() {
            Some(Kind::Word(word)) if KEYWORDS.contains(&word.as_str()) => {
                let word = word.clone();
                self.next();
                Some(word)
            }
            _ => None,
        }
    }

    /// Takes `$a :=`, `$a, $b :=` or `$a =`; whether it declares them.
    fn variables(&mut self) -> Result<Option<(Vec<String>, bool)>, TemplateError> {
        let mut ahead = self.tokens.clone();
        let mut names = Vec::new();
        loop {
            match ahead.next().map(|token| token.kind) {
                Some(Kind::Variable(name)) => names.push(name),
                _ => return Ok(None),
            }
            let declares = match ahead.next().map(|token| token.kind) {
                Some(Kind::Comma) if names.len() == 1 => continue,
                Some(Kind::Declare) => true,
                Some(Kind::Assign) => false,
                _ => return Ok(None),
            };
            if names.iter().any(String::is_empty) {
                return Err(error(self.position, "$ cannot be set"));
            }
            self.position = ahead.peek().map_or(self.position, |token| token.position);
            self.tokens = ahead;
            return Ok(Some((names, declares)));
        }
    }

    /// Takes the fields that are attached to what was taken last.
    fn fields(&mut self, fields: &mut Vec<String>) {
        while let Some(Kind::Field { name, attached: true }) = self.peek() {
            fields.push(name.clone());
            self.next();
        }
    }

    fn finish(&mut self) -> Result<(), TemplateError> {
        match self.peek() {
            None => Ok(()),
            Some(Kind::Close) => Err(error(self.position, "unexpected )")),
            Some(_) => Err(error(self.position, "unexpected word")),
        }
    }
}
