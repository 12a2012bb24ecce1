//! When a container whose process ended runs again.

use std::time::Duration;

use super::policy::RestartPolicy;
use crate::ending::Ending;

/// The first pause.
const FIRST: Duration = Duration::from_millis(100);

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);

/// A run of this length makes up for the failures before it.
const STEADY: Duration = Duration::from_secs(10);

/// The restarts of a container: a policy, a count, and a pause that doubles with each of them.
#[derive(Debug)]
pub(super) struct Restarts {
    pub(super) policy: RestartPolicy,
    count: u32,
    pause: Duration,
}

impl Restarts {
    /// None yet.
    pub(super) fn new(policy: RestartPolicy) -> Self {
        Self { policy, count: 0, pause: FIRST }
    }

    /// How often it was started again.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The container ended after having `run` for so long. How long to wait before it runs again, if it is to.
    pub(super) fn after(&mut self, ending: &Ending, run: Duration) -> Option<Duration> {
        if !self.policy.wants_restart(ending.exit_code, self.count) {
            return None;
        }
        if run >= STEADY {
            self.pause = FIRST;
        }
        self.count = self.count.saturating_add(1);
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use protocol::ExitStatus;

    use super::*;

    fn ended(code: u8) -> Ending {
        Ending::of_process(ExitStatus::Code(code), false)
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_anew_after_a_steady_run() {
        let mut restarts = Restarts::new(RestartPolicy::Always);
        let mut pause = || restarts.after(&ended(0), Duration::from_secs(1)).unwrap().as_millis();
        let pauses: Vec<u128> = (0..12).map(|_| pause()).collect();
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[10..], [60_000, 60_000]);
        assert_eq!(restarts.after(&ended(0), STEADY), Some(FIRST));
        assert_eq!(restarts.count(), 13);
    }

    #[test]
    fn failures_are_counted() {
        let mut restarts = Restarts::new(RestartPolicy::OnFailure { max: 2 });
        assert_eq!(restarts.after(&ended(0), STEADY), None);
        assert!(restarts.after(&ended(1), STEADY).is_some());
        assert!(restarts.after(&ended(1), STEADY).is_some());
        assert_eq!(restarts.after(&ended(1), STEADY), None);
        assert_eq!(restarts.count(), 2);
    }
}
