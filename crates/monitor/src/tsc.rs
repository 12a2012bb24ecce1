//! The frequency of the host's time stamp counter, which an emulated guest sees as its own.
//!
// UNSAFETY: reading the counter is an intrinsic that the compiler declares unsafe.
#![allow(unsafe_code)]

use std::time::Duration;

use crate::monotonic_ns;

/// Span of a measurement. Reading both clocks takes some 50 ns: over 5 ms that is 10 parts in a million.
const SPAN: Duration = Duration::from_millis(5);

/// How often both clocks are read for one sample; the quickest reading counts.
const READINGS: usize = 5;

/// A measurement that runs while other work is done.
#[derive(Debug)]
pub(crate) struct Measurement(Option<Sample>);

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    ticks: u64,
    nanoseconds: u64,
}

impl Measurement {
    pub(crate) fn start() -> Self {
        Self(sample())
    }

    /// The frequency in kHz. Sleeps if not enough time has passed yet. `None` where there is no such counter.
    pub(crate) fn finish(self) -> Option<u32> {
        let before = self.0?;
        let passed = Duration::from_nanos(monotonic_ns().saturating_sub(before.nanoseconds));
        std::thread::sleep(SPAN.saturating_sub(passed));
        frequency(before, sample()?)
    }
}

fn frequency(before: Sample, after: Sample) -> Option<u32> {
    let ticks = u128::from(after.ticks.checked_sub(before.ticks)?);
    let nanoseconds = u128::from(after.nanoseconds.checked_sub(before.nanoseconds)?);
    let khz = (ticks * 1_000_000).checked_div(nanoseconds)?;
    // What no processor has is a measurement gone wrong: the guest shall find out for itself.
    u32::try_from(khz).ok().filter(|khz| (100_000..20_000_000).contains(khz))
}

#[cfg(target_arch = "x86_64")]
fn sample() -> Option<Sample> {
    let reading = || {
        let before = monotonic_ns();
        // SAFETY: RDTSC exists on every x86-64 processor, reads no memory, and Linux leaves it to user space.
        let ticks = unsafe { std::arch::x86_64::_rdtsc() };
        let after = monotonic_ns();
        (after - before, Sample { ticks, nanoseconds: before.midpoint(after) })
    };
    (0..READINGS).map(|_| reading()).min_by_key(|(span, _)| *span).map(|(_, sample)| sample)
}

#[cfg(not(target_arch = "x86_64"))]
fn sample() -> Option<Sample> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frequency_is_ticks_over_time() {
        let at = |ticks, nanoseconds| Sample { ticks, nanoseconds };
        assert_eq!(frequency(at(100, 0), at(25_000_100, 10_000_000)), Some(2_500_000));
        assert_eq!(frequency(at(100, 5), at(200, 5)), None);
        assert_eq!(frequency(at(200, 5), at(100, 6)), None);
        assert_eq!(frequency(at(0, 0), at(1, 1_000_000)), None);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn two_measurements_agree() {
        let measure = || f64::from(Measurement::start().finish().unwrap());
        let (one, two) = (measure(), measure());
        assert!((one / two - 1.0).abs() < 0.01, "{one} kHz and {two} kHz");
    }
}
