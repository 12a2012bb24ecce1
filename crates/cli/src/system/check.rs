//! `coracle system check`.

use std::io::{self, Write as _};

use clap::Args;
use engine::{Engine, check::Check};

use crate::output::{report, table::visible};

#[derive(Debug, Args)]
pub(crate) struct CheckFlags {
    /// As JSON: {containers, live, repaired: [{what, id, done}], problems: [{check, subject, found, advice}]}
    #[arg(long)]
    pub(crate) json: bool,
}

/// Says what was found and put right, and what was not; the exit code is 0 where all is well now.
pub(crate) fn check(engine: &Engine, flags: &CheckFlags) -> anyhow::Result<u8> {
    let check = engine.check()?;
    let mut out = io::stdout().lock();
    if flags.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&check)?)?;
    } else {
        write!(out, "{}", text(&check))?;
    }
    Ok(if check.problems.is_empty() { 0 } else { report::FAILED })
}

fn text(check: &Check) -> String {
    let mut text = String::new();
    for repair in &check.repaired {
        text.push_str(&visible(&format!("repaired  {}: {}", repair.id, repair.done)));
        text.push('\n');
    }
    for problem in &check.problems {
        text.push_str(&visible(&format!("PROBLEM   {}, {}: {}", problem.check, problem.subject, problem.found)));
        text.push_str(&format!("\n          -> {}\n", visible(problem.advice)));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let containers = format!("{}, {} of them running", count(check.containers, "container"), check.live);
    let verdict = match check.problems.len() {
        0 => "All is well.".to_owned(),
        number => format!("{} left.", count(number, "problem")),
    };
    text.push_str(&format!("{containers}. {verdict}\n"));
    text
}

#[cfg(test)]
mod tests {
    use engine::{
        check::Problem,
        reconcile::{Repair, RepairKind},
    };

    use super::*;

    #[test]
    fn checks_as_text() {
        let repair = Repair { what: RepairKind::DeadKeeper, id: "web".into(), done: "its end was recorded".into() };
        let problem = Problem { check: "keeper", subject: "db".into(), found: "silent".into(), advice: "end it" };
        let found = Check { containers: 2, live: 1, repaired: vec![repair], problems: vec![problem] };
        let expected = "\
repaired  web: its end was recorded
PROBLEM   keeper, db: silent
          -> end it

2 containers, 1 of them running. 1 problem left.
";
        assert_eq!(text(&found), expected);
        assert_eq!(text(&Check::default()), "0 containers, 0 of them running. All is well.\n");
    }
}
