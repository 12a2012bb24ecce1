//! Limits of a container.

use clap::Args;
use engine::{
    quantity::{parse_cpus, parse_size},
    rates::{self, RateError, RateKind, RateRequest},
    request::parse_storage_option,
    rlimit,
};

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitFlags {
    /// CPUs, as in 2 or 0.5
    #[arg(long, value_name = "N", value_parser = parse_cpus, allow_hyphen_values = true)]
    pub(crate) cpus: Option<u32>,
    /// Memory of the machine, as in 512m
    #[arg(short, long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory: Option<u64>,
    /// Most processes; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = pids_limit)]
    pub(crate) pids_limit: Option<PidsLimit>,
    /// Resource limit of the process
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit)]
    pub(crate) ulimit: Vec<String>,
    /// Size of the scratch disk, as in size=4g
    #[arg(long, value_name = "size=SIZE", value_parser = parse_storage_option)]
    pub(crate) storage_opt: Option<u64>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) shm_size: Option<u64>,
    /// Most bytes per second read from a disk: / or a volume; each of them if none is named
    #[arg(long, value_name = "[DISK:]RATE", value_parser = rate(RateKind::ReadBytes))]
    pub(crate) device_read_bps: Vec<RateRequest>,
    /// Most bytes per second written to a disk
    #[arg(long, value_name = "[DISK:]RATE", value_parser = rate(RateKind::WriteBytes))]
    pub(crate) device_write_bps: Vec<RateRequest>,
    /// Most reads per second from a disk
    #[arg(long, value_name = "[DISK:]RATE", value_parser = rate(RateKind::ReadOperations))]
    pub(crate) device_read_iops: Vec<RateRequest>,
    /// Most writes per second to a disk
    #[arg(long, value_name = "[DISK:]RATE", value_parser = rate(RateKind::WriteOperations))]
    pub(crate) device_write_iops: Vec<RateRequest>,
    /// Whom the guest's kernel kills first when memory runs out, -1000 to 1000
    #[arg(
        long,
        value_name = "N",
        allow_hyphen_values = true,
        value_parser = clap::value_parser!(i32).range(-1000..=1000)
    )]
    pub(crate) oom_score_adj: Option<i32>,
}

/// `-1` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PidsLimit(pub(crate) Option<u64>);

/// `N`, `-1` or `0` for none.
pub(crate) fn pids_limit(text: &str) -> Result<PidsLimit, String> {
    match text.parse::<i64>() {
        Ok(-1 | 0) => Ok(PidsLimit(None)),
        Ok(limit) => u64::try_from(limit).map(|limit| PidsLimit(Some(limit))).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn ulimit(text: &str) -> Result<String, rlimit::RlimitError> {
    rlimit::parse(text).map(|_| text.to_owned())
}

fn rate(kind: RateKind) -> impl Fn(&str) -> Result<RateRequest, RateError> + Clone {
    move |text| rates::parse(text, kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_processes() {
        assert_eq!(pids_limit("-1"), Ok(PidsLimit(None)));
        assert_eq!(pids_limit("7"), Ok(PidsLimit(Some(7))));
        assert!(pids_limit("-2").is_err() && pids_limit("few").is_err());
    }
}
