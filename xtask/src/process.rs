//! Running programs, and saying which one failed.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs to the end; anything but success is an error that names the program.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| unable(command))?;
    if status.success() {
        return Ok(());
    }
    bail!("`{}` failed: {status}", shown(command));
}

/// Runs to the end and gives back standard output without its final newline.
pub(crate) fn text_of(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| unable(command))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", shown(command), output.status);
    }
    let text = String::from_utf8(output.stdout).with_context(|| format!("`{}` wrote no UTF-8", shown(command)))?;
    Ok(text.trim_end().to_owned())
}

fn unable(command: &Command) -> String {
    let program = command.get_program().display();
    format!("cannot start `{program}`; `cargo xtask setup` names the packages that are missing")
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
