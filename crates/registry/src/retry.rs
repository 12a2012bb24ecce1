//! What is tried again, and after which pause.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::environment::Deadlines;
use crate::error::{RegistryError, Unreached, Waiting};

/// No pause is longer, unless the registry asks for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Where something else can be asked, pauses are no longer than this together.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(5);

/// How often something failed since it last got on, and how long it paused.
#[derive(Debug, Clone)]
pub(crate) struct Retries {
    deadlines: Deadlines,
    tries: u32,
    failed: u32,
    paused: Duration,
}

impl Retries {
    /// Nothing failed yet.
    pub(crate) fn new(deadlines: Deadlines) -> Self {
        Self { deadlines, tries: deadlines.tries, failed: 0, paused: Duration::ZERO }
    }

    /// The same, but giving up sooner: something else can be asked.
    pub(crate) fn impatient(mut self) -> Self {
        self.tries = self.tries.min(2);
        self.deadlines.pauses = self.deadlines.pauses.min(SHORTEST_PATIENCE);
        self
    }

    /// It got on: what failed before does not count any more.
    pub(crate) fn progress(&mut self) {
        self.failed = 0;
        self.paused = Duration::ZERO;
    }

    /// The pause before the next try, `None` where there is to be none. `reached` is whether this registry answered
    /// before: if not, a connection that fails is tried once again only.
    pub(crate) fn after(&mut self, error: &RegistryError, reached: bool) -> Option<Duration> {
        let (most, asked) = match error {
            RegistryError::RateLimited { retry_after, .. } => (self.tries, *retry_after),
            RegistryError::Unavailable { retry_after, .. } => (self.tries, *retry_after),
            RegistryError::Broken { .. } => (self.tries, None),
            RegistryError::Timeout { waiting: Waiting::Bytes, .. } => (self.tries, None),
            RegistryError::Timeout { waiting: Waiting::Answer, .. } => (self.tries.min(3), None),
            RegistryError::Timeout { waiting: Waiting::Connection, .. } => (if reached { self.tries } else { 2 }, None),
            RegistryError::Unreachable { why: Unreached::Refused | Unreached::Network | Unreached::Name, .. } => {
                (if reached { self.tries } else { 2 }, None)
            }
            _ => return None,
        };
        self.failed += 1;
        let pause = asked.unwrap_or_else(|| jitter(self.backoff()));
        self.paused += pause;
        (self.failed < most && self.paused <= self.deadlines.pauses).then_some(pause)
    }

    fn backoff(&self) -> Duration {
        let doubled = 1_u32.checked_shl(self.failed.saturating_sub(1)).unwrap_or(u32::MAX);
        self.deadlines.first_pause.saturating_mul(doubled).min(LONGEST_PAUSE)
    }
}

/// Between a half and the whole of it, so that clients that failed together do not come back together.
fn jitter(pause: Duration) -> Duration {
    // Every `RandomState` has keys of its own.
    let random = u32::try_from(RandomState::new().hash_one(0_u8) >> 32).unwrap_or_default();
    pause.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Answer;

    fn broken() -> RegistryError {
        RegistryError::Broken { url: String::new(), detail: String::new() }
    }

    fn refused() -> RegistryError {
        RegistryError::Unreachable { url: String::new(), why: Unreached::Refused, detail: String::new() }
    }

    fn limited(seconds: u64) -> RegistryError {
        let retry_after = Some(Duration::from_secs(seconds));
        RegistryError::RateLimited { url: String::new(), answer: Answer::default(), retry_after }
    }

    #[test]
    fn pauses_double_with_jitter_and_end() {
        let mut retries = Retries::new(Deadlines::default());
        for expected in [500, 1000, 2000, 4000] {
            let pause = retries.after(&broken(), true).unwrap().as_millis();
            assert!((expected / 2..=expected).contains(&pause), "{pause}");
        }
        assert_eq!(retries.after(&broken(), true), None);
        retries.progress();
        assert!(retries.after(&broken(), true).is_some());
    }

    #[test]
    fn what_was_never_reached_is_tried_twice() {
        let mut retries = Retries::new(Deadlines::default());
        assert!(retries.after(&refused(), false).is_some());
        assert_eq!(retries.after(&refused(), false), None);
    }

    #[test]
    fn the_registry_says_how_long_up_to_a_minute() {
        let mut retries = Retries::new(Deadlines::default());
        assert_eq!(retries.after(&limited(20), true), Some(Duration::from_secs(20)));
        assert_eq!(retries.after(&limited(39), true), Some(Duration::from_secs(39)));
        assert_eq!(retries.after(&limited(2), true), None);
        assert_eq!(Retries::new(Deadlines::default()).after(&limited(3600), true), None);
    }

    #[test]
    fn an_answer_is_final() {
        let denied = RegistryError::Denied { url: String::new(), answer: Answer::default() };
        assert_eq!(Retries::new(Deadlines::default()).after(&denied, true), None);
    }
}
