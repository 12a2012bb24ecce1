//! `coracle image verify`.

use std::io::{self, Write};

use engine::{
    Engine,
    image::{Check, Outcome, Report, VerifyRequest},
};
use serde_json::{Value, json};

use crate::{
    images::flags::VerifyFlags,
    output::{
        progress::{Shown, Task},
        report::{FAILED, Refusal},
        table,
    },
};

/// Exits with 0 only where all is whole, be it only now.
pub(crate) fn verify(engine: &Engine, flags: &VerifyFlags) -> anyhow::Result<u8> {
    let request = VerifyRequest { names: flags.names.clone(), report_only: flags.report_only };
    let progress = Shown::new(flags.progress.progress, flags.quiet, Task::Verify);
    let report = engine.images().verify(&request, &progress);
    drop(progress);
    let report = report?;
    let mut out = io::stdout().lock();
    if flags.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&as_json(&report, &request))?)?;
    } else {
        tell(&mut out, &report, &request)?;
    }
    if report.is_whole() {
        return Ok(0);
    }
    if flags.json {
        return Ok(FAILED);
    }
    let hint = if request.report_only {
        "without --report-only, what can be made again is"
    } else {
        "what is damaged is out of the way: pull or load the images again, and it is made anew"
    };
    Err(Refusal::new("images are damaged", hint).into())
}

/// A line for each thing that is damaged, and one for all.
fn tell(out: &mut impl Write, report: &Report, request: &VerifyRequest) -> io::Result<()> {
    let mut counts = Counts::default();
    for check in &report.checks {
        counts.count(check);
        let (what, problem) = match &check.outcome {
            Outcome::Whole => continue,
            Outcome::Damaged { problem, healed: true } => ("healed", problem.as_str()),
            Outcome::Damaged { problem, healed: false } => ("DAMAGED", problem.as_str()),
            Outcome::Unchecked => ("unchecked", "a layer of it is damaged"),
        };
        writeln!(out, "{what}: {} of {}: {}", check.object, check.images.join(", "), table::visible(problem))?;
    }
    let fate = if request.report_only { "not needed by any image" } else { "removed, for no image needs it" };
    report.unneeded.iter().try_for_each(|object| writeln!(out, "{fate}: {object}"))?;
    let Counts { whole, healed, damaged, unchecked } = counts;
    write!(out, "{whole} whole, {healed} healed, {damaged} damaged")?;
    writeln!(out, "{}", if unchecked > 0 { format!(", {unchecked} unchecked") } else { String::new() })
}

#[derive(Debug, Default)]
struct Counts {
    whole: usize,
    healed: usize,
    damaged: usize,
    unchecked: usize,
}

impl Counts {
    fn count(&mut self, check: &Check) {
        *match check.outcome {
            Outcome::Whole => &mut self.whole,
            Outcome::Damaged { healed: true, .. } => &mut self.healed,
            Outcome::Damaged { healed: false, .. } => &mut self.damaged,
            Outcome::Unchecked => &mut self.unchecked,
        } += 1;
    }
}

fn as_json(report: &Report, request: &VerifyRequest) -> Value {
    let kind = |object: String| object.split(' ').next().unwrap_or_default().to_owned();
    let checks = report.checks.iter().map(|check| {
        let (outcome, problem) = match &check.outcome {
            Outcome::Whole => ("whole", None),
            Outcome::Damaged { problem, healed } => (if *healed { "healed" } else { "damaged" }, Some(problem)),
            Outcome::Unchecked => ("unchecked", None),
        };
        json!({
            "kind": kind(check.object.to_string()),
            "digest": check.object.digest.to_string(),
            "images": check.images,
            "outcome": outcome,
            "problem": problem,
        })
    });
    let unneeded = report.unneeded.iter().map(|object| {
        json!({ "kind": kind(object.to_string()), "digest": object.digest.to_string(), "removed": !request.report_only })
    });
    json!({
        "whole": report.is_whole(),
        "checks": checks.collect::<Vec<_>>(),
        "unneeded": unneeded.collect::<Vec<_>>(),
    })
}
