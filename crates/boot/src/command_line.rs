//! The kernel command line.

use thiserror::Error;

/// Longest command line in bytes that Linux on x86 keeps: `COMMAND_LINE_SIZE` less its NUL.
pub const MAX_LENGTH: usize = 2047;

/// A kernel command line that the kernel will read as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine(String);

impl CommandLine {
    /// Appends words, separated by one space from what is there.
    ///
    /// # Errors
    ///
    /// [`CommandLineError`] if a byte is not printable ASCII or the kernel would cut the line off.
    pub fn push(&mut self, words: &str) -> Result<(), CommandLineError> {
        let words = words.trim_matches(' ');
        if let Some(position) = words.bytes().position(|byte| !(b' '..=b'~').contains(&byte)) {
            return Err(CommandLineError::NotPrintable { position });
        }
        let separator = usize::from(!self.0.is_empty() && !words.is_empty());
        let length = self.0.len() + separator + words.len();
        if length > MAX_LENGTH {
            return Err(CommandLineError::TooLong { length });
        }
        if separator == 1 {
            self.0.push(' ');
        }
        self.0.push_str(words);
        Ok(())
    }

    /// The line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a command line is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CommandLineError {
    /// A control byte or a byte outside ASCII.
    #[error("kernel command line: byte {position} is not printable ASCII")]
    NotPrintable {
        /// Its position in the words that were to be appended.
        position: usize,
    },
    /// The kernel would silently drop the end.
    #[error("kernel command line of {length} bytes is over the kernel's limit of {MAX_LENGTH}")]
    TooLong {
        /// What it would have been.
        length: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_joined_by_one_space() {
        let mut line = CommandLine::default();
        for words in ["quiet ", "", " reboot=k", "a b"] {
            line.push(words).unwrap();
        }
        assert_eq!(line.as_str(), "quiet reboot=k a b");
    }

    #[test]
    fn what_the_kernel_would_misread_is_refused() {
        let mut line = CommandLine::default();
        assert_eq!(line.push("ab\0c"), Err(CommandLineError::NotPrintable { position: 2 }));
        assert_eq!(line.push("a\nb"), Err(CommandLineError::NotPrintable { position: 1 }));
        assert_eq!(line.push("é"), Err(CommandLineError::NotPrintable { position: 0 }));
        line.push(&"x".repeat(MAX_LENGTH)).unwrap();
        assert_eq!(line.push("y"), Err(CommandLineError::TooLong { length: MAX_LENGTH + 2 }));
        assert_eq!(line.as_str().len(), MAX_LENGTH);
    }
}
