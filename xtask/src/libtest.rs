//! Reading the summaries that Rust test binaries print.

use std::iter::Sum;
use std::ops::AddAssign;

/// How many tests passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub(crate) passed: usize,
    /// Tests that failed, and programs that ended without a summary.
    pub(crate) failed: usize,
}

impl Tally {
    /// One thing that failed outside any test binary.
    pub(crate) const FAILURE: Self = Self { passed: 0, failed: 1 };
    /// One thing that passed outside any test binary.
    pub(crate) const SUCCESS: Self = Self { passed: 1, failed: 0 };

    /// Reads `test result: ok. 3 passed; 1 failed; 0 ignored; …`; `None` for any other line.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let count = |what: &str| {
            let mut fields = counts.split(';').filter_map(|field| field.trim().split_once(' '));
            fields.find(|(_, name)| *name == what).and_then(|(number, _)| number.parse().ok())
        };
        Some(Self { passed: count("passed")?, failed: count("failed")? })
    }

    /// The same after `failed tests were run again, with the results `again`.
    pub(crate) fn mended_by(self, again: Self) -> Self {
        Self { passed: self.passed + again.passed, failed: self.failed.saturating_sub(again.passed) }
    }

    /// A program that failed although every test it spoke of passed still counts as a failure.
    pub(crate) fn of_program(self, succeeded: bool) -> Self {
        if succeeded || self.failed > 0 { self } else { Self { failed: 1, ..self } }
    }
}

/// The name in a line `test exits::code ... FAILED`.
pub(crate) fn failed_test(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
    (!name.contains(char::is_whitespace)).then_some(name)
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |mut sum, tally| {
            sum += tally;
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s";
        assert_eq!(Tally::of_line(line), Some(Tally { passed: 12, failed: 3 }));
        assert_eq!(Tally::of_line("test result: ok. 0 passed; 0 failed; 0 ignored"), Some(Tally::default()));
    }

    #[test]
    fn anything_else_is_not_a_summary() {
        for line in
            ["", "running 3 tests", "test result: ", "test result: ok. many passed; 0 failed", "5 passed; 0 failed"]
        {
            assert_eq!(Tally::of_line(line), None, "{line}");
        }
    }

    #[test]
    fn failed_tests_are_named() {
        assert_eq!(failed_test("test exits::code ... FAILED"), Some("exits::code"));
        for line in [
            "test exits::code ... ok",
            "test result: FAILED. 1 passed; 1 failed",
            "    exits::code",
            "test a b ... FAILED",
        ] {
            assert_eq!(failed_test(line), None, "{line}");
        }
    }

    #[test]
    fn what_passes_the_second_time_has_passed() {
        let first = Tally { passed: 70, failed: 2 };
        assert_eq!(first.mended_by(Tally { passed: 2, failed: 0 }), Tally { passed: 72, failed: 0 });
        assert_eq!(first.mended_by(Tally { passed: 1, failed: 1 }), Tally { passed: 71, failed: 1 });
        assert_eq!(first.mended_by(Tally { passed: 0, failed: 1 }), first);
    }

    #[test]
    fn a_program_that_dies_counts() {
        let passed = Tally { passed: 2, failed: 0 };
        assert_eq!(passed.of_program(true), passed);
        assert_eq!(passed.of_program(false), Tally { passed: 2, failed: 1 });
        assert_eq!(Tally { passed: 2, failed: 4 }.of_program(false), Tally { passed: 2, failed: 4 });
    }
}
