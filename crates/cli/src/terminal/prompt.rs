//! Questions to the user.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    process, thread,
};

use signal_hook::{consts::signal, iterator::Signals};

use crate::{filters::Filter, output::report::Refusal, terminal};

/// Most bytes of an answer that are read.
const ANSWER_MAX: u64 = 64 << 10;

/// Asks whether to go on; the answer is standard input's next line, terminal or not, and only `y` and `yes` are yes.
fn confirm(warning: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    write!(out, "{warning}\nAre you sure you want to continue? [y/N] ")?;
    out.flush()?;
    let answer = line()?;
    if !io::stdin().is_terminal() {
        writeln!(out)?;
    }
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Asks whether to remove what is named, unless `--force` has answered.
pub(crate) fn confirm_removal(what: &[&str], filters: &[Filter], force: bool) -> anyhow::Result<()> {
    if force {
        return Ok(());
    }
    let mut warning = "WARNING! This will remove:\n".to_owned();
    what.iter().for_each(|what| warning.push_str(&format!("  - {what}\n")));
    filters.iter().for_each(|filter| warning.push_str(&format!("  (only with {filter})\n")));
    if confirm(&warning)? {
        return Ok(());
    }
    Err(Refusal::new("nothing was removed", "answer y, or use --force").into())
}

/// Asks for a text on the terminal.
pub(crate) fn ask(question: &str) -> io::Result<String> {
    // Not locked while it waits: who is interrupted then still has a line to end.
    let mut out = io::stdout();
    write!(out, "{question}")?;
    out.flush()?;
    Ok(line()?.trim().to_owned())
}

/// Asks for a text that is not shown. Interrupted, the terminal is put back as it was first.
pub(crate) fn ask_hidden(question: &str) -> io::Result<String> {
    let mut signals = Signals::new([signal::SIGINT, signal::SIGTERM, signal::SIGHUP])?;
    let handle = signals.handle();
    let watch = thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Some(number) = signals.forever().next() {
            terminal::restore();
            let _ = writeln!(io::stdout());
            process::exit(128 + number);
        }
    })?;
    let hidden = terminal::Hidden::enter()?;
    let answer = ask(question);
    drop(hidden);
    handle.close();
    // A thread that panicked has said so.
    let _ = watch.join();
    writeln!(io::stdout())?;
    answer
}

fn line() -> io::Result<String> {
    let mut bytes = Vec::new();
    io::Read::take(io::stdin().lock(), ANSWER_MAX).read_until(b'\n', &mut bytes)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the answer is not UTF-8"))
}
