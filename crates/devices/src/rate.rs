//! Limits of how fast a device is used: token buckets over a clock that the caller reads.
//!
//! A bucket holds what may be used at once, [`BURST`] seconds' worth, and fills at its rate. It is kept as one moment:
//! *until when what was used so far has been paid for*. That moment moves on with each use by what the use costs, and
//! never lies in the past by more than a full bucket:
//!
//! ```text
//!            ◀── BURST ──▶
//!   ─────────┬───────────┬──────────────▶ time
//!         paid_until    now                 paid_until ≤ now + BURST: the next request may begin
//!                                           paid_until >  now + BURST: it waits for paid_until - BURST
//! ```
//!
//! A request may begin as soon as the bucket is not in debt, whatever it costs, and is paid for afterwards: one that
//! is larger than the bucket passes, and what comes behind it waits longer. So over any time the device gets at most
//! its rate times that time, and a burst, and one request.

use std::num::NonZeroU64;

use machine::{DiskRates, Rate};

/// How long a device that was idle may be used at any speed, in nanoseconds of its rate.
pub(crate) const BURST: u64 = 100_000_000;

const SECOND: u64 = 1_000_000_000;

/// Which of the two is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Direction {
    pub(crate) const BOTH: [Self; 2] = [Self::Read, Self::Write];
}

#[derive(Debug)]
struct Bucket {
    per_second: NonZeroU64,
    paid_until: u64,
}

impl Bucket {
    fn new(per_second: NonZeroU64) -> Self {
        Self { per_second, paid_until: 0 }
    }

    /// When the next request may begin.
    fn ready_at(&self) -> u64 {
        self.paid_until.saturating_sub(BURST)
    }

    fn charge(&mut self, units: u64, now: u64) {
        let price = u128::from(units) * u128::from(SECOND) / u128::from(self.per_second.get());
        let price = u64::try_from(price).unwrap_or(u64::MAX);
        self.paid_until = self.paid_until.max(now).saturating_add(price);
    }
}

/// The buckets of one direction.
#[derive(Debug, Default)]
struct Buckets {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
}

impl Buckets {
    fn new(rate: Rate) -> Self {
        Self { bytes: rate.bytes.map(Bucket::new), operations: rate.operations.map(Bucket::new) }
    }

    fn ready_at(&self) -> u64 {
        let at = |bucket: &Option<Bucket>| bucket.as_ref().map_or(0, Bucket::ready_at);
        at(&self.bytes).max(at(&self.operations))
    }

    fn charge(&mut self, bytes: u64, now: u64) {
        if let Some(bucket) = &mut self.bytes {
            bucket.charge(bytes, now);
        }
        if let Some(bucket) = &mut self.operations {
            bucket.charge(1, now);
        }
    }
}

/// The limits of a device. Times are nanoseconds of one monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    read: Buckets,
    write: Buckets,
}

impl Limiter {
    /// Full buckets.
    pub(crate) fn new(rates: DiskRates) -> Self {
        Self { read: Buckets::new(rates.read), write: Buckets::new(rates.write) }
    }

    /// Whether there is any limit.
    pub(crate) fn is_limited(&self) -> bool {
        [&self.read, &self.write].into_iter().any(|buckets| buckets.bytes.is_some() || buckets.operations.is_some())
    }

    /// When the next request of that direction may begin; a moment that has passed, or 0, is at once.
    pub(crate) fn ready_at(&self, direction: Direction) -> u64 {
        match direction {
            Direction::Read => self.read.ready_at(),
            Direction::Write => self.write.ready_at(),
        }
    }

    /// A request of that direction and size was served.
    pub(crate) fn charge(&mut self, direction: Direction, bytes: u64, now: u64) {
        match direction {
            Direction::Read => self.read.charge(bytes, now),
            Direction::Write => self.write.charge(bytes, now),
        }
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither part of the monotonic clock is ever negative.
    now.tv_sec.unsigned_abs().saturating_mul(SECOND).saturating_add(now.tv_nsec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(bytes: u64, operations: u64) -> Rate {
        Rate { bytes: NonZeroU64::new(bytes), operations: NonZeroU64::new(operations) }
    }

    fn writes(bytes: u64, operations: u64) -> Limiter {
        Limiter::new(DiskRates { read: Rate::default(), write: rate(bytes, operations) })
    }

    /// Units that pass in `span` when requests of `size` come as fast as they may.
    fn flood(limiter: &mut Limiter, size: u64, span: u64) -> u64 {
        let (mut now, mut passed) = (SECOND, 0);
        let end = now + span;
        while now <= end {
            limiter.charge(Direction::Write, size, now);
            passed += 1;
            now = now.max(limiter.ready_at(Direction::Write));
            if passed > 1_000_000 {
                break;
            }
        }
        passed
    }

    #[test]
    fn what_is_not_limited_never_waits() {
        let mut limiter = writes(1, 1);
        limiter.charge(Direction::Read, u64::MAX, 5);
        assert_eq!(limiter.ready_at(Direction::Read), 0);
        let mut unlimited = Limiter::default();
        unlimited.charge(Direction::Write, u64::MAX, 5);
        assert_eq!(unlimited.ready_at(Direction::Write), 0);
    }

    #[test]
    fn a_flood_gets_its_rate_and_a_burst() {
        // 1 MiB/s in requests of 4 KiB for 10 s: 2560, the burst's 25, and one.
        assert!((2560..=2560 + 27).contains(&flood(&mut writes(1 << 20, 0), 4096, 10 * SECOND)));
        assert!((1000..=1000 + 12).contains(&flood(&mut writes(0, 100), 4096, 10 * SECOND)));
        // Both: the stricter one holds.
        assert!((100..=100 + 3).contains(&flood(&mut writes(1 << 20, 10), 4096, 10 * SECOND)));
        assert!((10..=10 + 2).contains(&flood(&mut writes(4096, 1000), 4096, 10 * SECOND)));
    }

    #[test]
    fn a_request_larger_than_the_bucket_passes_and_is_paid_for() {
        let mut limiter = writes(1000, 0);
        assert!(limiter.ready_at(Direction::Write) <= SECOND);
        limiter.charge(Direction::Write, 60_000, SECOND);
        assert_eq!(limiter.ready_at(Direction::Write), SECOND + 60 * SECOND - BURST);
    }

    #[test]
    fn idling_saves_no_more_than_a_burst() {
        let mut limiter = writes(0, 10);
        let now = 1_000_000 * SECOND;
        // A bucket of one operation, and one on debt.
        limiter.charge(Direction::Write, 0, now);
        assert!(limiter.ready_at(Direction::Write) <= now);
        limiter.charge(Direction::Write, 0, now);
        assert!(limiter.ready_at(Direction::Write) > now);
    }

    proptest! {
        #[test]
        fn no_request_overflows_and_no_rate_is_exceeded(
            rate in 1u64..,
            sizes in prop::collection::vec(any::<u64>(), 1..50),
            start in any::<u64>(),
        ) {
            let mut limiter = writes(rate, 0);
            let (mut now, mut sum, mut last) = (start, 0u128, 0);
            for size in sizes {
                limiter.charge(Direction::Write, size, now);
                sum += u128::from(size);
                last = size;
                now = now.max(limiter.ready_at(Direction::Write));
            }
            if now < u64::MAX - BURST {
                // All but the last one are paid for, up to rounding and a burst.
                let earned = u128::from(rate) * u128::from(now - start + BURST) / u128::from(SECOND);
                prop_assert!(sum - u128::from(last) <= earned + u128::from(rate) / u128::from(SECOND) + 50 * (1 + u128::from(rate) / u128::from(SECOND)));
            }
        }
    }
}
