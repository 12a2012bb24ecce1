//! Lines for the kernel's log, which the host can read after a death.

use std::fs::OpenOptions;
use std::io::Write;

/// Writes a line, if there is a log.
pub(crate) fn warn(text: &str) {
    if let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") {
        // The kernel takes about a thousand bytes a line; more is no error worth telling nobody.
        let _ = log.write_all(format!("<4>guest-init: {text}\n").as_bytes());
    }
}
