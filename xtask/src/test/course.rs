//! Which tests are run in which lab, and what counts in the end.
//!
//! The lab is an emulator that runs a guest inside a guest. About one boot in some hundreds dies of it before a line of
//! ours has run, and now and then the lab's own kernel does. So a test has failed when it failed twice:
//!
//! ```text
//!            passed                            passed
//!   open ─────────────▶ over       failed ─────────────▶ over
//!     │  ▲                          once ── failed ────▶ over, a failure
//!     │  └─ the lab broke down        ▲
//!     └──────────── failed ───────────┘
//! ```
//!
//! What is open when a lab has ended is run in another, which is told, up to [`LABS`] of them. More than [`FEW`]
//! failures in a lab that did not break down are believed at once: a fault of ours seldom comes alone. What is still
//! open when there are no more labs has failed.

use super::Results;
use crate::libtest::Tally;

/// Most labs for one run.
const LABS: usize = 3;

/// Most failed tests that are run again: an emulator's hiccups are few.
const FEW: usize = 3;

/// The tests of one run on their way.
#[derive(Debug)]
pub(super) struct Course {
    open: Vec<String>,
    failed_once: Vec<String>,
    failed: Vec<String>,
    passed: usize,
    labs: usize,
}

impl Course {
    pub(super) fn new<'a>(tests: impl Iterator<Item = &'a str>) -> Self {
        let open = tests.map(str::to_owned).collect();
        Self { open, failed_once: Vec::new(), failed: Vec::new(), passed: 0, labs: 0 }
    }

    /// What the next lab is to run; `None`: everything is over.
    pub(super) fn next_lab(&mut self) -> Option<Vec<String>> {
        let names = [&self.open[..], &self.failed_once].concat();
        if self.labs == LABS {
            self.open.clear();
            self.failed_once.clear();
            self.failed.extend(names);
            return None;
        }
        self.labs += 1;
        (!names.is_empty()).then_some(names)
    }

    /// Whether the lab that [`Self::next_lab`] spoke of is not the first.
    pub(super) fn is_again(&self) -> bool {
        self.labs > 1
    }

    /// Takes what a lab came to. A test that is missing there did not end.
    pub(super) fn take(&mut self, results: &Results) {
        let (passed, failed) = (&results.passed, &results.failed);
        self.passed += passed.len();
        let (twice, once): (Vec<_>, _) = failed.iter().cloned().partition(|name| self.failed_once.contains(name));
        self.open.retain(|name| !passed.contains(name) && !failed.contains(name));
        self.failed_once.retain(|name| !passed.contains(name) && !failed.contains(name));
        self.failed.extend(twice);
        if self.open.is_empty() && once.len() > FEW {
            self.failed.extend(once);
        } else {
            self.failed_once.extend(once);
        }
    }

    /// The tests that have failed.
    pub(super) fn failures(&self) -> &[String] {
        &self.failed
    }

    pub(super) fn tally(&self) -> Tally {
        Tally { passed: self.passed, failed: self.failed.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(passed: &[&str], failed: &[&str]) -> Results {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Results { tally: Tally::default(), passed: owned(passed), failed: owned(failed) }
    }

    #[test]
    fn what_passes_is_run_once() {
        let mut course = Course::new(["a", "b"].into_iter());
        assert_eq!(course.next_lab().unwrap(), ["a", "b"]);
        assert!(!course.is_again());
        course.take(&results(&["b", "a"], &[]));
        assert_eq!(course.next_lab(), None);
        assert_eq!(course.tally(), Tally { passed: 2, failed: 0 });
    }

    #[test]
    fn what_a_broken_lab_left_is_run_in_another() {
        let mut course = Course::new(["a", "b", "c", "d"].into_iter());
        let _ = course.next_lab();
        course.take(&results(&["a"], &["b"]));
        assert_eq!(course.next_lab().unwrap(), ["c", "d", "b"]);
        assert!(course.is_again());
        course.take(&results(&["c", "b"], &["d"]));
        assert_eq!(course.next_lab().unwrap(), ["d"]);
        course.take(&results(&["d"], &[]));
        assert_eq!((course.next_lab(), course.tally()), (None, Tally { passed: 4, failed: 0 }));
    }

    #[test]
    fn what_fails_twice_has_failed() {
        let mut course = Course::new(["a", "b"].into_iter());
        let _ = course.next_lab();
        course.take(&results(&["a"], &["b"]));
        let _ = course.next_lab();
        course.take(&results(&[], &["b"]));
        assert_eq!((course.next_lab(), course.failures()), (None, &["b".to_owned()][..]));
        assert_eq!(course.tally(), Tally { passed: 1, failed: 1 });
    }

    #[test]
    fn many_failures_are_believed_unless_the_lab_broke_down() {
        let names = ["a", "b", "c", "d", "e"];
        let mut course = Course::new(names.into_iter());
        let _ = course.next_lab();
        course.take(&results(&[], &names[..4]));
        assert_eq!(course.next_lab().unwrap(), ["e", "a", "b", "c", "d"]);
        let mut course = Course::new(names.into_iter());
        let _ = course.next_lab();
        course.take(&results(&[], &names));
        assert_eq!((course.next_lab(), course.tally()), (None, Tally { passed: 0, failed: 5 }));
    }

    #[test]
    fn a_test_that_breaks_every_lab_has_failed() {
        let mut course = Course::new(["a"].into_iter());
        let labs = std::iter::from_fn(|| course.next_lab().inspect(|_| course.take(&results(&[], &[])))).count();
        assert_eq!((labs, course.tally()), (LABS, Tally { passed: 0, failed: 1 }));
    }
}
