//! The time that most inodes share.

use layer::Timestamp;

/// Candidates that are kept.
const CANDIDATES: usize = 16;

/// Finds a frequent time in one pass and little memory (Misra and Gries, "Finding repeated elements", 1982): surely the
/// one that more than half have, and any that more than a seventeenth have is a candidate.
#[derive(Debug, Default)]
pub(crate) struct Frequent {
    candidates: Vec<(Timestamp, u64)>,
}

impl Frequent {
    pub(crate) fn add(&mut self, time: Timestamp) {
        if let Some((_, count)) = self.candidates.iter_mut().find(|(candidate, _)| *candidate == time) {
            *count += 1;
        } else if self.candidates.len() < CANDIDATES {
            self.candidates.push((time, 1));
        } else {
            for (_, count) in &mut self.candidates {
                *count -= 1;
            }
            self.candidates.retain(|(_, count)| *count > 0);
        }
    }

    /// The candidate that is ahead, the earliest of several; the beginning of time if there is none.
    pub(crate) fn most(&self) -> Timestamp {
        let ahead = self.candidates.iter().max_by_key(|(time, count)| (*count, std::cmp::Reverse(*time)));
        ahead.map(|(time, _)| *time).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanoseconds: 0 }
    }

    #[test]
    fn a_majority_is_found_among_many() {
        let mut frequent = Frequent::default();
        assert_eq!(frequent.most(), time(0));
        for seconds in 0..1000 {
            frequent.add(time(seconds));
            frequent.add(time(-7));
        }
        frequent.add(time(-7));
        assert_eq!(frequent.most(), time(-7));
    }

    #[test]
    fn of_equals_the_earliest() {
        let mut frequent = Frequent::default();
        for seconds in [5, 3, 4] {
            frequent.add(time(seconds));
        }
        assert_eq!(frequent.most(), time(3));
    }
}
