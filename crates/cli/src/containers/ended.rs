//! What is said of a container that ended while its user was attached.

use std::io::Write as _;

use engine::{Ending, Reason};

use crate::output::report;

/// Most lines of a kernel log that are shown.
const LOG_LINES: usize = 20;

/// Says why, unless the process itself ended.
pub(crate) fn explain(ending: &Ending) {
    if let Some(error) = &ending.error {
        report::note(error);
    }
    let shows_log = matches!(ending.reason, Reason::BootFailed | Reason::GuestPanic | Reason::GuestError);
    if let Some(log) = ending.kernel_log.as_ref().filter(|_| shows_log) {
        let lines: Vec<_> = log.lines().collect();
        report::note("the guest kernel's last lines:");
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            let _ = writeln!(std::io::stderr(), "  | {line}");
        }
    }
}
