//! How errors reach the user: the chain, one cause a line, then what can be done.

use std::io::Write as _;

use engine::registry::RegistryError;

use crate::output::table::visible;

/// Exit code of a container that could not be run, as Docker has it.
pub(crate) const NOT_RUN: u8 = 125;

/// Exit code of any other command that failed, as Docker has it.
pub(crate) const FAILED: u8 = 1;

/// Exit code of a program that writes to a pipe that nobody reads: 128 and SIGPIPE.
pub(crate) const BROKEN_PIPE: u8 = 141;

/// Whether the reader of our own output went away.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Whether a pipe broke somewhere on the way to this error.
pub(crate) fn has_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(broken))
}

/// An error of writing to our own standard output: that its reader went away is no failure of anything else.
pub(crate) fn own_pipe(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    if has_broken_pipe(&error) { std::io::Error::from(std::io::ErrorKind::BrokenPipe).into() } else { error }
}

/// Something that this command itself does not do, and what its user can do instead.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    message: String,
    hint: String,
}

impl Refusal {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

/// Does something to each of several things: what came of those where it worked, and the exit code. The others are
/// complained about.
pub(crate) fn each<T>(names: &[String], mut act: impl FnMut(&str) -> anyhow::Result<T>) -> (Vec<T>, u8) {
    let mut done = Vec::new();
    let mut code = 0;
    for name in names {
        match act(name) {
            Ok(result) => done.push(result),
            // Whoever read our output has seen enough.
            Err(error) if is_broken_pipe(&error) => return (done, BROKEN_PIPE),
            Err(error) => {
                print(&error);
                code = FAILED;
            }
        }
    }
    (done, code)
}

/// The lines that tell of an error. What comes from registries and archives cannot steer the terminal.
pub(crate) fn lines(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for (depth, cause) in error.chain().enumerate() {
        text.push_str(if depth == 0 { "coracle: " } else { "  caused by: " });
        text.push_str(&cause.to_string().lines().map(visible).collect::<Vec<_>>().join("\n    "));
        text.push('\n');
    }
    if let Some(hint) = hint(error) {
        text.push_str("hint: ");
        text.push_str(&hint);
        text.push('\n');
    }
    text
}

/// The first hint that an error of the chain has to give.
fn hint(error: &anyhow::Error) -> Option<String> {
    let of_registry = error.chain().find_map(|cause| login_hint(registry_error(cause)?));
    of_registry.or_else(|| error.chain().find_map(hint_of))
}

/// What an error itself has to say of what can be done.
fn hint_of(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    let of_engine = || cause.downcast_ref::<engine::Error>()?.hint();
    let of_image = || cause.downcast_ref::<engine::image::ImageError>()?.hint();
    let own = || Some(cause.downcast_ref::<Refusal>()?.hint.clone());
    of_engine().or_else(of_image).or_else(own)
}

/// Errors of registries are boxed within those of images.
fn registry_error<'e>(cause: &'e (dyn std::error::Error + 'static)) -> Option<&'e RegistryError> {
    match cause.downcast_ref() {
        Some(engine::Error::Registry(error)) => Some(error),
        _ => cause.downcast_ref().or_else(|| Some(&**cause.downcast_ref::<Box<RegistryError>>()?)),
    }
}

/// Who may not see something is told how to log in where it is.
fn login_hint(error: &RegistryError) -> Option<String> {
    let RegistryError::Unauthorized { url, sent, .. } = error else { return None };
    let host = url.split_once("://").map_or(&**url, |(_, rest)| rest).split('/').next()?;
    let host = if host == "registry-1.docker.io" { "docker.io" } else { host };
    Some(if *sent {
        format!("user or password are not accepted: `coracle login {host}` takes others")
    } else {
        format!("`coracle login {host}` logs in; or check the name: a repository that is not there looks the same")
    })
}

/// Prints an error. Standard error that takes nothing cannot be complained about.
pub(crate) fn print(error: &anyhow::Error) {
    let _ = std::io::stderr().write_all(lines(error).as_bytes());
}

/// Prints a warning, in Docker's words.
pub(crate) fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "WARNING: {text}");
}

/// Prints a line of ours between the process's.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "coracle: {text}");
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;

    use super::*;

    #[test]
    fn who_may_not_see_something_is_told_how_to_log_in() {
        let unauthorized = |sent| RegistryError::Unauthorized {
            url: "https://registry-1.docker.io/v2/x/manifests/1".into(),
            answer: Default::default(),
            sent,
        };
        let image = engine::image::ImageError::Transfer { what: "x".into(), source: Box::new(unauthorized(false)) };
        assert!(lines(&image.into()).contains("`coracle login docker.io` logs in"));
        assert!(lines(&engine::Error::from(unauthorized(true)).into()).contains("takes others"));
    }

    #[test]
    fn what_others_wrote_cannot_steer_the_terminal() {
        let error = anyhow::anyhow!("one \u{1b}[31m\r\ntwo");
        assert_eq!(lines(&error), "coracle: one \\u{1b}[31m\n    two\n");
    }

    #[test]
    fn chain_and_hint() {
        let source = io::Error::from_raw_os_error(13);
        let error = anyhow::Error::new(engine::Error::home("make", std::path::Path::new("/h"), source));
        let error = Err::<(), _>(error).context("cannot start").unwrap_err();
        let expected = "coracle: cannot start\n  caused by: cannot make /h\n  caused by: Permission denied (os error 13)\n\
                        hint: set CORACLE_HOME to a directory that you can write to\n";
        assert_eq!(lines(&error), expected);
        assert!(!is_broken_pipe(&error));
        assert!(is_broken_pipe(&io::Error::from(io::ErrorKind::BrokenPipe).into()));
    }
}
