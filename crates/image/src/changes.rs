//! Changes to a configuration, written as instructions of a Dockerfile, as `docker import --change` takes them.
//!
//! ```text
//! CMD, ENTRYPOINT      ["exec", "form"] | shell form, for /bin/sh -c
//! ENV, LABEL           key=value ... | key value
//! EXPOSE               port[-port][/protocol] ...
//! VOLUME               ["path", ...] | path ...
//! USER, WORKDIR, STOPSIGNAL, ONBUILD
//! ```
//!
//! Words may be quoted as a shell has it, a backslash takes the next character as it is, and `$NAME`, `${NAME}`,
//! `${NAME:-default}` and `${NAME:+instead}` stand for what `ENV` has set so far (Dockerfile reference, "Environment
//! replacement"). A backslash at its end continues a line, `#` at its beginning makes it a comment.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

use serde_json::{Map, Value, json};

use crate::{ImageError, Result};

/// What a configuration's `config` will be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    cmd: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    /// In the order in which they were set first.
    env: Vec<(String, String)>,
    exposed: BTreeMap<String, Value>,
    labels: BTreeMap<String, String>,
    on_build: Vec<String>,
    stop_signal: Option<String>,
    user: Option<String>,
    volumes: BTreeMap<String, Value>,
    working_dir: Option<String>,
    /// What no change is about, such as health checks.
    others: Map<String, Value>,
}

impl Settings {
    /// Applies instructions one after the other.
    ///
    /// # Errors
    ///
    /// [`ImageError::Change`] with the line that is none, and why.
    pub(crate) fn from_changes(changes: &[String]) -> Result<Self> {
        Self::default().with_changes(changes)
    }

    /// What a configuration's `config` is already. What is not as it should be is left out; what changes cannot touch
    /// stays as it is.
    pub(crate) fn of(config: &Value) -> Self {
        let Some(config) = config.as_object() else { return Self::default() };
        let mut config = config.clone();
        let mut take = |key: &str| config.remove(key).filter(|value| !value.is_null());
        let texts = |value: Option<Value>| value.and_then(|value| serde_json::from_value::<Vec<String>>(value).ok());
        let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
        let set = |value: Option<Value>| match value {
            Some(Value::Object(set)) => set.into_iter().map(|(key, _)| (key, json!({}))).collect(),
            _ => BTreeMap::new(),
        };
        let labels = take("Labels").and_then(|labels| serde_json::from_value(labels).ok());
        let pair = |entry: &String| entry.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self {
            cmd: texts(take("Cmd")),
            entrypoint: texts(take("Entrypoint")).filter(|words| !words.is_empty()),
            env: texts(take("Env")).unwrap_or_default().iter().filter_map(pair).collect(),
            exposed: set(take("ExposedPorts")),
            labels: labels.unwrap_or_default(),
            on_build: texts(take("OnBuild")).unwrap_or_default(),
            stop_signal: text(take("StopSignal")),
            user: text(take("User")).filter(|user| !user.is_empty()),
            volumes: set(take("Volumes")),
            working_dir: text(take("WorkingDir")).filter(|path| !path.is_empty()),
            others: config,
        }
    }

    /// Applies more instructions.
    ///
    /// # Errors
    ///
    /// As for [`Settings::from_changes`].
    pub(crate) fn with_changes(self, changes: &[String]) -> Result<Self> {
        let mut settings = self;
        for line in changes.iter().flat_map(|change| lines(change)) {
            settings.apply(&line).map_err(|problem| ImageError::Change {
                line: line.chars().take(200).collect(),
                problem: problem.to_owned(),
            })?;
        }
        Ok(settings)
    }

    /// The value of `config` in a configuration (OCI image-spec, `config.md`).
    pub(crate) fn to_json(&self) -> Value {
        let env: Vec<_> = self.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let members = [
            ("Cmd", self.cmd.as_ref().map(|words| json!(words))),
            ("Entrypoint", self.entrypoint.as_ref().map(|words| json!(words))),
            ("Env", (!env.is_empty()).then(|| json!(env))),
            ("ExposedPorts", (!self.exposed.is_empty()).then(|| json!(self.exposed))),
            ("Labels", (!self.labels.is_empty()).then(|| json!(self.labels))),
            ("OnBuild", (!self.on_build.is_empty()).then(|| json!(self.on_build))),
            ("StopSignal", self.stop_signal.as_ref().map(|text| json!(text))),
            ("User", self.user.as_ref().map(|text| json!(text))),
            ("Volumes", (!self.volumes.is_empty()).then(|| json!(self.volumes))),
            ("WorkingDir", self.working_dir.as_ref().map(|text| json!(text))),
        ];
        let members = members.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        let others = self.others.iter().map(|(key, value)| (key.clone(), value.clone()));
        Value::Object(others.chain(members).collect::<Map<_, _>>())
    }

    fn apply(&mut self, line: &str) -> Result<(), &'static str> {
        let (instruction, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        if rest.is_empty() {
            return Err("it needs an argument");
        }
        match instruction.to_ascii_uppercase().as_str() {
            "CMD" => self.cmd = Some(command(rest)?),
            "ENTRYPOINT" => self.entrypoint = Some(command(rest)?).filter(|words| !words.is_empty()),
            "ENV" => self.set_env(rest)?,
            "LABEL" => self.labels.extend(self.pairs(rest)?),
            "EXPOSE" => self.expose(rest)?,
            "VOLUME" => self.add_volumes(rest)?,
            "ONBUILD" => self.on_build(rest)?,
            "STOPSIGNAL" => self.stop_signal = Some(self.one_word(rest)?),
            "USER" => self.user = Some(self.one_word(rest)?),
            "WORKDIR" => self.work_in(rest)?,
            "HEALTHCHECK" => return Err("health checks are not supported"),
            _ => {
                return Err(
                    "it is none of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR",
                );
            }
        }
        Ok(())
    }

    fn set_env(&mut self, rest: &str) -> Result<(), &'static str> {
        for (key, value) in self.pairs(rest)? {
            match self.env.iter_mut().find(|(known, _)| *known == key) {
                Some(known) => known.1 = value,
                None => self.env.push((key, value)),
            }
        }
        Ok(())
    }

    fn expose(&mut self, rest: &str) -> Result<(), &'static str> {
        for word in self.words(rest)? {
            for port in ports(&word)? {
                self.exposed.insert(port, json!({}));
            }
        }
        Ok(())
    }

    fn add_volumes(&mut self, rest: &str) -> Result<(), &'static str> {
        let paths = match exec_form(rest) {
            Some(paths) => paths,
            None => self.words(rest)?,
        };
        if paths.iter().any(String::is_empty) {
            return Err("a volume needs a path");
        }
        self.volumes.extend(paths.into_iter().map(|path| (path, json!({}))));
        Ok(())
    }

    fn on_build(&mut self, rest: &str) -> Result<(), &'static str> {
        let trigger = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        if matches!(trigger.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
            return Err("that instruction cannot be triggered");
        }
        self.on_build.push(rest.to_owned());
        Ok(())
    }

    /// A relative directory is below the one before.
    fn work_in(&mut self, rest: &str) -> Result<(), &'static str> {
        let path = self.expand(rest)?;
        let path = if path.starts_with('/') {
            path
        } else {
            format!("{}/{path}", self.working_dir.as_deref().unwrap_or_default())
        };
        let mut parts = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => _ = parts.pop(),
                part => parts.push(part),
            }
        }
        self.working_dir = Some(format!("/{}", parts.join("/")));
        Ok(())
    }

    /// `key=value ...`, or one key and all that follows it.
    fn pairs(&self, rest: &str) -> Result<Vec<(String, String)>, &'static str> {
        let first = rest.split_whitespace().next().unwrap_or_default();
        if !first.contains('=') {
            let (key, value) = rest.split_once(char::is_whitespace).ok_or("a key needs a value")?;
            return Ok(vec![(key.to_owned(), self.expand(value.trim_start())?)]);
        }
        let pair = |word: String| match word.split_once('=') {
            Some(("", _)) => Err("a value needs a key"),
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err("a key needs `=` and a value"),
        };
        self.words(rest)?.into_iter().map(pair).collect()
    }

    fn one_word(&self, rest: &str) -> Result<String, &'static str> {
        let mut words = self.words(rest)?;
        match words.len() {
            1 => Ok(words.remove(0)),
            _ => Err("it takes one word"),
        }
    }

    fn words(&self, text: &str) -> Result<Vec<String>, &'static str> {
        let mut reader = Reader { rest: text.chars().peekable(), settings: self };
        let mut words = Vec::new();
        while let Some(word) = reader.word()? {
            words.push(word);
        }
        Ok(words)
    }

    /// The whole text as one word.
    fn expand(&self, text: &str) -> Result<String, &'static str> {
        let mut reader = Reader { rest: text.chars().peekable(), settings: self };
        let mut out = String::new();
        reader.part(&mut out, |_| false)?;
        Ok(out)
    }

    fn variable(&self, name: &str) -> &str {
        self.env.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

/// Reads words: quotes, backslashes, variables.
struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    settings: &'a Settings,
}

impl Reader<'_> {
    fn word(&mut self) -> Result<Option<String>, &'static str> {
        while self.rest.next_if(|c| c.is_whitespace()).is_some() {}
        if self.rest.peek().is_none() {
            return Ok(None);
        }
        let mut word = String::new();
        self.part(&mut word, char::is_whitespace)?;
        Ok(Some(word))
    }

    /// Reads until `is_end`, which stays.
    fn part(&mut self, out: &mut String, is_end: impl Fn(char) -> bool) -> Result<(), &'static str> {
        while let Some(character) = self.rest.next_if(|c| !is_end(*c)) {
            match character {
                '\'' => self.single_quoted(out)?,
                '"' => self.double_quoted(out)?,
                '\\' => out.extend(self.rest.next()),
                '$' => self.variable(out)?,
                character => out.push(character),
            }
        }
        Ok(())
    }

    fn single_quoted(&mut self, out: &mut String) -> Result<(), &'static str> {
        loop {
            match self.rest.next().ok_or("a quote is not closed")? {
                '\'' => return Ok(()),
                character => out.push(character),
            }
        }
    }

    fn double_quoted(&mut self, out: &mut String) -> Result<(), &'static str> {
        loop {
            match self.rest.next().ok_or("a quote is not closed")? {
                '"' => return Ok(()),
                '\\' => match self.rest.next().ok_or("a quote is not closed")? {
                    escaped @ ('"' | '\\' | '$') => out.push(escaped),
                    other => out.extend(['\\', other]),
                },
                '$' => self.variable(out)?,
                character => out.push(character),
            }
        }
    }

    /// What follows a dollar sign.
    fn variable(&mut self, out: &mut String) -> Result<(), &'static str> {
        if self.rest.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                out.push('$');
            }
            out.push_str(self.settings.variable(&name));
            return Ok(());
        }
        let name = self.name();
        let value = self.settings.variable(&name).to_owned();
        match self.rest.next() {
            Some('}') if !name.is_empty() => out.push_str(&value),
            Some(':') => {
                let kind = self.rest.next().filter(|c| matches!(c, '-' | '+')).ok_or(BRACES)?;
                let mut other = String::new();
                self.part(&mut other, |c| c == '}')?;
                self.rest.next().ok_or(BRACES)?;
                match (kind, value.is_empty()) {
                    ('-', true) | ('+', false) => out.push_str(&other),
                    ('-', false) => out.push_str(&value),
                    _ => {}
                }
            }
            _ => return Err(BRACES),
        }
        Ok(())
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(character) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(character);
        }
        name
    }
}

const BRACES: &str = "what is in ${} is not understood";

/// Lines without comments, those that are continued made one.
fn lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        match line.trim_end().strip_suffix('\\') {
            Some(begun) => current.push_str(begun),
            None => {
                current.push_str(line);
                lines.push(std::mem::take(&mut current));
            }
        }
    }
    lines.push(current);
    lines.into_iter().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// An array of strings in JSON, if that is what it is.
fn exec_form(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

fn command(text: &str) -> Result<Vec<String>, &'static str> {
    Ok(exec_form(text).unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), text.into()]))
}

/// `80`, `80/udp` or `8000-8010/tcp` as the keys of `ExposedPorts`.
fn ports(word: &str) -> Result<Vec<String>, &'static str> {
    const PORT: &str = "a port is a number from 1 to 65535, or a range, with /tcp, /udp or /sctp or without";
    let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().ok().filter(|n| *n > 0 && !text.starts_with('+')).ok_or(PORT);
    let (first, last) = (number(first)?, number(last)?);
    if first > last || !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(PORT);
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn apply(changes: &[&str]) -> Result<Value> {
        let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
        Settings::from_changes(&changes).map(|settings| settings.to_json())
    }

    #[test]
    fn each_instruction() {
        let cases = [
            (&["CMD [\"a\", \"b c\"]"][..], json!({"Cmd": ["a", "b c"]})),
            (&["cmd echo $HOME 'x'"], json!({"Cmd": ["/bin/sh", "-c", "echo $HOME 'x'"]})),
            (&["CMD [\"a\", 1]"], json!({"Cmd": ["/bin/sh", "-c", "[\"a\", 1]"]})),
            (&["CMD []"], json!({"Cmd": []})),
            (&["ENTRYPOINT [\"/init\"]", "CMD x"], json!({"Cmd": ["/bin/sh", "-c", "x"], "Entrypoint": ["/init"]})),
            (&["ENTRYPOINT [\"/init\"]", "ENTRYPOINT []"], json!({})),
            (
                &["ENV A=1 B=\"two words\" C='$A' D=$A-${B} E=a\\ b"],
                json!({"Env": ["A=1", "B=two words", "C=$A", "D=-", "E=a b"]}),
            ),
            (
                &["ENV A 1  2", "ENV B=${A}/x C=$Ax D=\\$A E=\"\\$A\\n\" A=3"],
                json!({"Env": ["A=3", "B=1  2/x", "C=", "D=$A", "E=$A\\n"]}),
            ),
            (
                &["ENV A=1", "ENV B=${A:-x} C=${D:-x$A} E=${A:+y} F=${D:+y} G=$ H=$$"],
                json!({"Env": ["A=1", "B=1", "C=x1", "E=y", "F=", "G=$", "H=$$"]}),
            ),
            (
                &["EXPOSE 80 53/UDP 9000-9002/tcp"],
                json!({"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "9000/tcp": {}, "9001/tcp": {}, "9002/tcp": {}}}),
            ),
            (&["LABEL a=b \"c d\"=e", "LABEL a f g"], json!({"Labels": {"a": "f g", "c d": "e"}})),
            (&["ONBUILD RUN make"], json!({"OnBuild": ["RUN make"]})),
            (&["STOPSIGNAL SIGQUIT", "USER 1000:1000"], json!({"StopSignal": "SIGQUIT", "User": "1000:1000"})),
            (
                &["VOLUME [\"/a b\", \"/c\"]", "VOLUME /d /e"],
                json!({"Volumes": {"/a b": {}, "/c": {}, "/d": {}, "/e": {}}}),
            ),
            (&["WORKDIR /a//b/", "WORKDIR c/../d"], json!({"WorkingDir": "/a/b/d"})),
            (&["ENV D=/srv", "WORKDIR ${D}/www files"], json!({"Env": ["D=/srv"], "WorkingDir": "/srv/www files"})),
            (&["# only this\n\nUSER \\\n  me\nENV A=\\\n# in between\nb"], json!({"User": "me", "Env": ["A=b"]})),
            (&[], json!({})),
        ];
        for (changes, expected) in cases {
            assert_eq!(apply(changes).unwrap(), expected, "{changes:?}");
        }
    }

    #[test]
    fn what_is_no_instruction_is_named() {
        let lines = [
            "RUN make",
            "FROM scratch",
            "COPY a b",
            "nonsense",
            "CMD",
            "ENV A",
            "ENV =b",
            "ENV A=b C",
            "ENV A='b",
            "ENV A=\"b",
            "ENV A=${B",
            "ENV A=${B:?x}",
            "ENV A=${}",
            "EXPOSE 0",
            "EXPOSE 65536",
            "EXPOSE 90-80",
            "EXPOSE 80/icmp",
            "EXPOSE +80",
            "USER a b",
            "STOPSIGNAL a b",
            "VOLUME [\"\"]",
            "ONBUILD ONBUILD RUN x",
            "ONBUILD FROM x",
            "HEALTHCHECK NONE",
        ];
        for line in lines {
            let error = apply(&[line]).unwrap_err();
            assert!(
                matches!(error, ImageError::Change { .. }) && error.to_string().contains(&format!("{line:?}")),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_change_is_applied_or_refused(text in "(ENV|LABEL|EXPOSE|VOLUME|WORKDIR|USER|CMD)? ?.{0,40}") {
            let _ = apply(&[&text]);
        }
    }
}
