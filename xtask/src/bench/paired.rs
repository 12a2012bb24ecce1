//! Commands timed in turn, so that a ratio holds while the machine's speed drifts.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// One of the things compared.
pub(crate) struct Candidate<'a> {
    /// Its name in the table.
    pub(crate) name: &'a str,
    /// Makes ready for one run, outside the clock.
    pub(crate) prepare: Box<dyn FnMut() -> Result<()> + 'a>,
    /// The command of one run, inside the clock.
    pub(crate) command: Box<dyn FnMut() -> Command + 'a>,
}

impl<'a> Candidate<'a> {
    /// A candidate that needs no preparation.
    pub(crate) fn new(name: &'a str, command: impl FnMut() -> Command + 'a) -> Self {
        Self { name, prepare: Box::new(|| Ok(())), command: Box::new(command) }
    }

    /// Runs `prepare` before each run, outside the clock.
    pub(crate) fn prepared(mut self, prepare: impl FnMut() -> Result<()> + 'a) -> Self {
        self.prepare = Box::new(prepare);
        self
    }
}

/// Runs each candidate once unmeasured, then all of them in turn `rounds` times, and prints a table: seconds as
/// minimum, median and maximum, and the median over the rounds of each one's time divided by the first one's.
pub(crate) fn compare(title: &str, rounds: usize, candidates: &mut [Candidate<'_>]) -> Result<()> {
    for candidate in &mut *candidates {
        once(candidate)?;
    }
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); candidates.len()];
    for _ in 0..rounds {
        for (candidate, times) in candidates.iter_mut().zip(&mut times) {
            times.push(once(candidate)?.as_secs_f64());
        }
    }
    println!("\n{title} ({rounds} rounds in turn after one warm-up)\n");
    println!("| what | min s | median s | max s | times the first |\n|---|---|---|---|---|");
    for (candidate, own) in candidates.iter().zip(&times) {
        let ratios: Vec<f64> = own.iter().zip(&times[0]).map(|(own, first)| own / first).collect();
        let (low, middle, high) = spread(own);
        println!("| {} | {low:.3} | {middle:.3} | {high:.3} | {:.2} |", candidate.name, spread(&ratios).1);
    }
    Ok(())
}

fn once(candidate: &mut Candidate<'_>) -> Result<Duration> {
    (candidate.prepare)()?;
    let mut command = (candidate.command)();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let started = Instant::now();
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let took = started.elapsed();
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {command:?}: {}\n{stderr}", candidate.name, output.status);
    Ok(took)
}

/// Minimum, median, maximum.
pub(crate) fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    (at(0), at(sorted.len() / 2), at(sorted.len().saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn spread_is_minimum_median_maximum() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (1.0, 2.0, 3.0));
    }
}
