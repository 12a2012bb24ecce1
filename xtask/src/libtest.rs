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

    /// A program that failed although every test it spoke of passed still counts as a failure.
    pub(crate) fn of_program(self, succeeded: bool) -> Self {
        if succeeded || self.failed > 0 { self } else { Self { failed: 1, ..self } }
    }
}

/// What a line says of one test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome<'a> {
    /// `test exits::code ... ok`
    Passed(&'a str),
    /// `test exits::code ... FAILED`
    Failed(&'a str),
}

impl<'a> Outcome<'a> {
    /// Reads the line of a test that came to an end; `None` for any other.
    pub(crate) fn of_line(line: &'a str) -> Option<Self> {
        let (name, word) = line.trim().strip_prefix("test ")?.split_once(" ... ")?;
        match word {
            _ if name.contains(char::is_whitespace) => None,
            "ok" => Some(Self::Passed(name)),
            "FAILED" => Some(Self::Failed(name)),
            _ => None,
        }
    }
}

/// The name in a line `exits::code: test` of a test program's list.
pub(crate) fn listed_test(line: &str) -> Option<&str> {
    line.strip_suffix(": test")
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
    fn tests_that_ended_are_named() {
        assert_eq!(Outcome::of_line("test exits::code ... FAILED"), Some(Outcome::Failed("exits::code")));
        assert_eq!(Outcome::of_line("test exits::code ... ok"), Some(Outcome::Passed("exits::code")));
        for line in [
            "test exits::code ... ",
            "test exits::code ... ignored",
            "test result: FAILED. 1 passed; 1 failed",
            "    exits::code",
            "test a b ... FAILED",
        ] {
            assert_eq!(Outcome::of_line(line), None, "{line}");
        }
        assert_eq!(listed_test("exits::code: test"), Some("exits::code"));
        assert_eq!(listed_test("2 tests, 0 benchmarks"), None);
    }

    #[test]
    fn a_program_that_dies_counts() {
        let passed = Tally { passed: 2, failed: 0 };
        assert_eq!(passed.of_program(true), passed);
        assert_eq!(passed.of_program(false), Tally { passed: 2, failed: 1 });
        assert_eq!(Tally { passed: 2, failed: 4 }.of_program(false), Tally { passed: 2, failed: 4 });
    }
}
