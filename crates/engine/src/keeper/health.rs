//! A container's health, as Docker's `HEALTHCHECK` has it. A state machine without processes and without a clock:
//! the keeper tells it what happened, and when.
//!
//! ```text
//!              a check succeeds                  `retries` checks fail in a row
//!  starting ─────────────────────▶ healthy ────────────────────────────────────▶ unhealthy
//!      │                              ▲                                            │   ▲
//!      │                              └────────────── a check succeeds ────────────┘   │
//!      └────────── `retries` checks fail in a row, outside of the start period ────────┘
//! ```

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use protocol::ProcessId;
use serde_json::{Value, json};

use super::policy::HealthSpec;

/// Results that are kept.
const KEPT: usize = 5;

/// Exit code of a check that did not end in time.
const TIMED_OUT: i32 = -1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Starting,
    Healthy,
    Unhealthy,
}

#[derive(Debug)]
enum Check {
    /// The next one begins then.
    Due(Instant),
    Running {
        process: ProcessId,
        since: Instant,
        begun: i64,
    },
}

#[derive(Debug)]
struct Result {
    begun: i64,
    ended: i64,
    code: i32,
    output: String,
}

/// The health of a container that runs.
#[derive(Debug)]
pub(super) struct Health {
    spec: HealthSpec,
    started: Instant,
    status: Status,
    failures: u32,
    check: Check,
    log: VecDeque<Result>,
}

impl Health {
    /// The container has just started.
    pub(super) fn new(spec: HealthSpec, now: Instant) -> Self {
        let mut health = Self {
            spec,
            started: now,
            status: Status::Starting,
            failures: 0,
            check: Check::Due(now),
            log: VecDeque::new(),
        };
        health.check = Check::Due(now + health.interval(now));
        health
    }

    fn is_starting(&self, now: Instant) -> bool {
        self.status == Status::Starting && now.saturating_duration_since(self.started) < self.spec.start_period
    }

    fn interval(&self, now: Instant) -> Duration {
        if self.is_starting(now) { self.spec.start_interval } else { self.spec.interval }
    }

    /// When something is due: the next check, or the end of the one that runs.
    pub(super) fn deadline(&self) -> Instant {
        match self.check {
            Check::Due(at) => at,
            Check::Running { since, .. } => since + self.spec.timeout,
        }
    }

    /// The command of the check that is to begin now, if one is.
    pub(super) fn due(&self, now: Instant) -> Option<&[String]> {
        matches!(self.check, Check::Due(at) if now >= at).then_some(self.spec.command.as_slice())
    }

    /// A check was begun.
    pub(super) fn began(&mut self, process: ProcessId, now: Instant, wall_clock: i64) {
        self.check = Check::Running { process, since: now, begun: wall_clock };
    }

    /// A check could not be begun now: the next one may be.
    pub(super) fn skip(&mut self, now: Instant) {
        self.check = Check::Due(now + self.interval(now));
    }

    /// The check that runs and whose time is over.
    pub(super) fn overdue(&self, now: Instant) -> Option<ProcessId> {
        match self.check {
            Check::Running { process, since, .. } if now >= since + self.spec.timeout => Some(process),
            _ => None,
        }
    }

    /// Whether `process` is the check that runs.
    pub(super) fn is_check(&self, process: ProcessId) -> bool {
        matches!(self.check, Check::Running { process: running, .. } if running == process)
    }

    /// The check took too long.
    pub(super) fn timed_out(&mut self, now: Instant, wall_clock: i64) {
        let output = format!("Health check exceeded timeout ({:?})", self.spec.timeout);
        self.ended(TIMED_OUT, output.as_bytes(), now, wall_clock);
    }

    /// The check ended.
    pub(super) fn ended(&mut self, code: i32, output: &[u8], now: Instant, wall_clock: i64) {
        let begun = if let Check::Running { begun, .. } = self.check { begun } else { wall_clock };
        let output = String::from_utf8_lossy(output).into_owned();
        self.log.push_back(Result { begun, ended: wall_clock, code, output });
        if self.log.len() > KEPT {
            self.log.pop_front();
        }
        if code == 0 {
            (self.status, self.failures) = (Status::Healthy, 0);
        } else if !self.is_starting(now) {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= self.spec.retries.max(1) {
                self.status = Status::Unhealthy;
            }
        }
        self.check = Check::Due(now + self.interval(now));
    }

    /// Docker's `State.Health`.
    pub(super) fn to_value(&self) -> Value {
        let status = match self.status {
            Status::Starting => "starting",
            Status::Healthy => "healthy",
            Status::Unhealthy => "unhealthy",
        };
        let log = self.log.iter().map(|result| {
            json!({
                "Start": time(result.begun),
                "End": time(result.ended),
                "ExitCode": result.code,
                "Output": result.output,
            })
        });
        json!({ "Status": status, "FailingStreak": self.failures, "Log": log.collect::<Vec<_>>() })
    }
}

fn time(nanoseconds: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).map_or_else(|_| String::new(), |t| format!("{t:.9}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn health(start_period: u64) -> (Health, Instant) {
        let now = Instant::now();
        let spec = HealthSpec {
            command: vec!["true".into()],
            interval: 10 * SECOND,
            timeout: 3 * SECOND,
            start_period: Duration::from_secs(start_period),
            start_interval: SECOND,
            retries: 2,
        };
        (Health::new(spec, now), now)
    }

    fn run(health: &mut Health, now: Instant, code: i32) -> String {
        assert!(health.due(now).is_some());
        health.began(ProcessId(1), now, 1);
        assert!(health.due(now).is_none() && health.is_check(ProcessId(1)));
        health.ended(code, b"said", now, 2);
        health.to_value()["Status"].as_str().unwrap().to_owned()
    }

    #[test]
    fn from_starting_to_unhealthy_and_back() {
        let (mut health, begun) = health(0);
        assert!(health.due(begun + 9 * SECOND).is_none());
        assert_eq!(run(&mut health, begun + 10 * SECOND, 1), "starting");
        assert_eq!(run(&mut health, begun + 20 * SECOND, 1), "unhealthy");
        assert_eq!(run(&mut health, begun + 30 * SECOND, 0), "healthy");
        assert_eq!(run(&mut health, begun + 40 * SECOND, 1), "healthy");
        assert_eq!(health.to_value()["FailingStreak"], 1);
        assert_eq!(health.deadline(), begun + 50 * SECOND);
    }

    #[test]
    fn failures_in_the_start_period_do_not_count() {
        let (mut health, begun) = health(5);
        for second in 1..5 {
            assert_eq!(run(&mut health, begun + second * SECOND, 1), "starting");
        }
        assert_eq!(health.to_value()["FailingStreak"], 0);
        assert_eq!(run(&mut health, begun + 5 * SECOND, 1), "starting");
        assert_eq!(run(&mut health, begun + 15 * SECOND, 1), "unhealthy");
        // A success ends the start period.
        let (mut health, begun) = self::health(100);
        assert_eq!(run(&mut health, begun + SECOND, 0), "healthy");
        assert_eq!(health.deadline(), begun + 11 * SECOND);
        assert_eq!(run(&mut health, begun + 11 * SECOND, 1), "healthy");
        assert_eq!(run(&mut health, begun + 21 * SECOND, 1), "unhealthy");
    }

    #[test]
    fn checks_that_hang_fail() {
        let (mut health, begun) = health(0);
        let at = begun + 10 * SECOND;
        health.began(ProcessId(7), at, 5);
        assert_eq!(health.overdue(at + 2 * SECOND), None);
        assert_eq!(health.overdue(at + 3 * SECOND), Some(ProcessId(7)));
        health.timed_out(at + 3 * SECOND, 8);
        assert!(!health.is_check(ProcessId(7)));
        let value = health.to_value();
        assert_eq!((&value["Log"][0]["ExitCode"], &value["FailingStreak"]), (&json!(-1), &json!(1)));
        assert_eq!(value["Log"][0]["Start"], "1970-01-01T00:00:00.000000005Z");
    }

    #[test]
    fn the_last_five_results_are_kept() {
        let (mut health, begun) = health(0);
        for check in 1..=9 {
            run(&mut health, begun + check * 10 * SECOND, i32::try_from(check).unwrap());
        }
        let value = health.to_value();
        let codes: Vec<_> = value["Log"].as_array().unwrap().iter().map(|result| &result["ExitCode"]).collect();
        assert_eq!(codes, [5, 6, 7, 8, 9]);
    }
}
