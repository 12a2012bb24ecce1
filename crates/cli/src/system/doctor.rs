//! `coracle doctor`.

use std::io::{self, Write as _};

use clap::Args;
use engine::doctor::{self, Finding, Status};

use crate::Place;

#[derive(Debug, Args)]
pub(crate) struct DoctorFlags {
    /// As JSON: a list of {check, status, found, advice}
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints the findings; the exit code is 0 only when a container can run.
pub(crate) fn doctor(place: &Place, flags: &DoctorFlags) -> anyhow::Result<u8> {
    let findings = doctor::examine(&place.home, &place.installation, place.accelerator);
    let mut out = io::stdout().lock();
    if flags.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
    } else {
        write!(out, "{}", text(&findings))?;
    }
    Ok(u8::from(!doctor::can_run(&findings)))
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { check, status, found, advice } in findings {
        let mark = match status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        text.push_str(&format!("{mark}  {check:<width$}  {found}\n"));
        if let Some(advice) = advice {
            text.push_str(&format!("      {:width$}  -> {advice}\n", ""));
        }
    }
    text.push_str(if doctor::can_run(findings) { "\nContainers can run.\n" } else { "\nNo container can run.\n" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_as_text() {
        let finding = |check, status, advice: Option<&str>| Finding {
            check,
            status,
            found: "found".to_owned(),
            advice: advice.map(str::to_owned),
        };
        let findings = [finding("kvm", Status::Warn, Some("do this")), finding("guest init", Status::Ok, None)];
        let expected = "\
warn  kvm         found
                  -> do this
ok    guest init  found

Containers can run.
";
        assert_eq!(text(&findings), expected);
        assert!(text(&[finding("kvm", Status::Fail, None)]).ends_with("No container can run.\n"));
    }
}
