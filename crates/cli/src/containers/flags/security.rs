//! What a container's processes may do in their machine.

use clap::Args;
use engine::{
    capability,
    request::{self, parse_security_option, parse_sysctl},
};

#[derive(Debug, Args)]
#[command(next_help_heading = "Security")]
pub(crate) struct SecurityFlags {
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAP", value_parser = capability_word)]
    pub(crate) cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAP", value_parser = capability_word)]
    pub(crate) cap_drop: Vec<String>,
    /// Give it the whole guest: all capabilities, all devices
    #[arg(long)]
    pub(crate) privileged: bool,
    /// no-new-privileges, seccomp=FILE, seccomp=unconfined
    #[arg(long, value_name = "OPTION", value_parser = security_option)]
    pub(crate) security_opt: Vec<SecurityOption>,
    /// Set a kernel parameter
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_sysctl)]
    pub(crate) sysctl: Vec<(String, String)>,
}

/// One `--security-opt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecurityOption {
    /// Whether privileges can be gained by executing a file.
    NoNewPrivileges(bool),
    /// A file with a profile of system calls.
    Seccomp(String),
    /// No confinement, which is what there is without it.
    Unconfined,
}

fn capability_word(text: &str) -> Result<String, capability::UnknownCapability> {
    capability::check(text).map(|()| text.to_owned())
}

fn security_option(text: &str) -> Result<SecurityOption, request::OptionError> {
    let file = text.strip_prefix("seccomp=").or_else(|| text.strip_prefix("seccomp:"));
    match file.filter(|file| !matches!(*file, "" | "unconfined")) {
        Some(file) => Ok(SecurityOption::Seccomp(file.to_owned())),
        None => Ok(match parse_security_option(text)? {
            Some(value) => SecurityOption::NoNewPrivileges(value),
            None => SecurityOption::Unconfined,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        assert_eq!(security_option("no-new-privileges:true"), Ok(SecurityOption::NoNewPrivileges(true)));
        assert_eq!(security_option("seccomp=unconfined"), Ok(SecurityOption::Unconfined));
        assert_eq!(security_option("seccomp=a.json"), Ok(SecurityOption::Seccomp("a.json".to_owned())));
        assert!(security_option("seccomp=").is_err() && security_option("selinux=on").is_err());
    }
}
