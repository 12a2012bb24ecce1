//! `coracle update`.

use std::io::{self, Write as _};

use clap::Args;
use engine::{
    Engine, UpdateRequest,
    quantity::{parse_cpus, parse_size},
    request::RestartPolicy,
};

use crate::{
    containers::flags::limits::{PidsLimit, pids_limit},
    output::report::{self, Refusal},
};

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] CONTAINER...")]
pub(crate) struct UpdateFlags {
    /// CPUs, as in 2 or 0.5
    #[arg(long, value_name = "N", value_parser = parse_cpus, allow_hyphen_values = true)]
    pub(crate) cpus: Option<u32>,
    /// Memory, as in 512m
    #[arg(short, long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory: Option<u64>,
    /// Most processes; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = pids_limit)]
    pub(crate) pids_limit: Option<PidsLimit>,
    /// Start it again when it ends: no, on-failure[:MAX], always, unless-stopped
    #[arg(long, value_name = "POLICY")]
    pub(crate) restart: Option<RestartPolicy>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Changes each; what takes effect later is said on standard error.
pub(crate) fn update(engine: &Engine, flags: &UpdateFlags) -> anyhow::Result<u8> {
    let request = UpdateRequest {
        cpu_milli: flags.cpus,
        memory: flags.memory,
        pids_limit: flags.pids_limit.map(|limit| limit.0.unwrap_or(0)),
        restart: flags.restart,
    };
    if request == UpdateRequest::default() {
        return Err(Refusal::new("there is nothing to change", "`coracle update --help` lists what can be").into());
    }
    let (_, code) = report::each(&flags.containers, |name| {
        for note in engine.update(name, &request)? {
            report::note(&format!("{name}: {note}"));
        }
        Ok(writeln!(io::stdout(), "{name}")?)
    });
    Ok(code)
}
