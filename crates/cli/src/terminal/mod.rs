//! The user's terminal: raw while a container has it, silent while a password is typed, and as it was before on
//! every way out.

pub(crate) mod prompt;

use std::{
    io::{self, IsTerminal},
    panic,
    sync::{Mutex, Once, PoisonError},
};

use engine::TerminalSize;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// What the terminal was before. Kept apart from [`RawMode`] because panics and forced exits run no destructors.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input is a terminal in raw mode for as long as this lives.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Makes the terminal at standard input raw: every key goes to the process, Ctrl-C too.
    pub(crate) fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let default = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                restore();
                default(info);
            }));
        });
        change(Termios::make_raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// What is typed at standard input is not shown for as long as this lives.
#[derive(Debug)]
pub(crate) struct Hidden(());

impl Hidden {
    pub(crate) fn enter() -> io::Result<Self> {
        change(|termios| termios.local_modes.remove(LocalModes::ECHO))?;
        Ok(Self(()))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        restore();
    }
}

/// Changes the terminal at standard input, and remembers what it was.
fn change(how: impl FnOnce(&mut Termios)) -> io::Result<()> {
    let before = tcgetattr(rustix::stdio::stdin())?;
    let mut changed = before.clone();
    how(&mut changed);
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
    tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &changed)?;
    Ok(())
}

/// Puts the terminal back as it was, if it is not.
pub(crate) fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that hung up has nothing to restore.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &before);
    }
}

/// Whether standard input is a terminal.
pub(crate) fn is_input() -> bool {
    io::stdin().is_terminal()
}

/// The size of the user's terminal, wherever it is attached.
pub(crate) fn size() -> Option<TerminalSize> {
    [rustix::stdio::stdout(), rustix::stdio::stdin(), rustix::stdio::stderr()].into_iter().find_map(|descriptor| {
        let size = tcgetwinsize(descriptor).ok()?;
        Some(TerminalSize { rows: size.ws_row, columns: size.ws_col })
    })
}
