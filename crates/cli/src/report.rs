//! How errors reach the user: the chain, one cause a line, then what can be done.

use std::io::Write as _;

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

/// The lines that tell of an error.
pub(crate) fn lines(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for (depth, cause) in error.chain().enumerate() {
        text.push_str(if depth == 0 { "coracle: " } else { "  caused by: " });
        text.push_str(&cause.to_string());
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
    error.chain().find_map(|cause| {
        let of_engine = cause.downcast_ref::<engine::Error>().and_then(engine::Error::hint);
        of_engine.or_else(|| cause.downcast_ref::<engine::image::ImageError>()?.hint())
    })
}

/// Prints an error. Standard error that takes nothing cannot be complained about.
pub(crate) fn print(error: &anyhow::Error) {
    let _ = std::io::stderr().write_all(lines(error).as_bytes());
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
