//! Flags that Docker has and that cannot be met: each is known, hidden from the help, and refused with the reason and
//! with what to do instead. A script that says `--gpus all` is told why that fails, not that nobody knows the word.

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, parser::ValueSource};

use crate::output::report::Refusal;

/// A flag that is refused.
#[derive(Debug)]
struct Refused {
    long: &'static str,
    short: Option<char>,
    /// Whether it has a value. One without may be given as `=false`.
    valued: bool,
    /// The value that asks for what is so anyway.
    harmless: &'static str,
    reason: &'static str,
    hint: &'static str,
}

const NETWORK: &str = "containers have no network yet";
const NETWORK_HINT: &str = "leave it away; data can flow through the standard streams, `cp` and volumes";
const KERNEL: &str =
    "a container has a kernel of its own, of which it shares nothing with the host or another container";
const KERNEL_HINT: &str = "leave it away";
const CPUS_HINT: &str = "`--cpus` bounds what the machine may use";
const MEMORY_HINT: &str = "`-m` sets the machine's memory, which is all that it has";

const fn valued(long: &'static str, reason: &'static str, hint: &'static str) -> Refused {
    Refused { long, short: None, valued: true, harmless: "", reason, hint }
}

const fn switch(long: &'static str, reason: &'static str, hint: &'static str) -> Refused {
    Refused { long, short: None, valued: false, harmless: "false", reason, hint }
}

const REFUSED: &[Refused] = &[
    switch(
        "oom-kill-disable",
        "a guest that is out of memory and may kill nobody stands still for ever",
        "give it more memory with `-m`; `--oom-score-adj` says whom the guest's kernel kills first",
    ),
    valued(
        "device",
        "a container's machine has virtual devices only, and those of the host stay with the host",
        "leave it away; `--privileged` gives it all devices of its own machine",
    ),
    valued("device-cgroup-rule", "the host's devices stay with the host", "leave it away"),
    valued(
        "gpus",
        "a GPU would have to be taken from the host and given to one machine whole, which is not supported",
        "run what needs a GPU outside of a machine",
    ),
    Refused { short: Some('p'), ..valued("publish", NETWORK, NETWORK_HINT) },
    Refused { short: Some('P'), ..switch("publish-all", NETWORK, NETWORK_HINT) },
    valued("expose", NETWORK, NETWORK_HINT),
    valued("add-host", NETWORK, NETWORK_HINT),
    valued("dns", NETWORK, NETWORK_HINT),
    valued("dns-option", NETWORK, NETWORK_HINT),
    valued("dns-search", NETWORK, NETWORK_HINT),
    valued("domainname", NETWORK, "`--hostname` may have dots in it"),
    valued("ip", NETWORK, NETWORK_HINT),
    valued("ip6", NETWORK, NETWORK_HINT),
    valued("link", NETWORK, NETWORK_HINT),
    valued("link-local-ip", NETWORK, NETWORK_HINT),
    valued("mac-address", NETWORK, NETWORK_HINT),
    valued("network-alias", NETWORK, NETWORK_HINT),
    Refused { harmless: "private", ..valued("cgroupns", KERNEL, KERNEL_HINT) },
    valued("cgroup-parent", KERNEL, KERNEL_HINT),
    Refused { harmless: "private", ..valued("ipc", KERNEL, KERNEL_HINT) },
    valued("pid", KERNEL, KERNEL_HINT),
    valued("userns", KERNEL, KERNEL_HINT),
    valued("uts", KERNEL, KERNEL_HINT),
    Refused { harmless: "default", ..valued("isolation", KERNEL, KERNEL_HINT) },
    valued("runtime", "every container is a microVM", "leave it away"),
    valued("cpu-shares", "shares between machines are not supported", CPUS_HINT),
    valued("cpu-period", "quotas are given in CPUs", CPUS_HINT),
    valued("cpu-quota", "quotas are given in CPUs", CPUS_HINT),
    valued("cpu-rt-period", "real-time scheduling is not supported", CPUS_HINT),
    valued("cpu-rt-runtime", "real-time scheduling is not supported", CPUS_HINT),
    valued("cpuset-cpus", "machines are not pinned to CPUs", CPUS_HINT),
    valued("cpuset-mems", "machines are not pinned to memory nodes", CPUS_HINT),
    valued("memory-swap", "machines have no swap", MEMORY_HINT),
    valued("memory-swappiness", "machines have no swap", MEMORY_HINT),
    valued("memory-reservation", "memory is given to a machine as it uses it", MEMORY_HINT),
    valued("kernel-memory", "the guest's kernel has the machine's memory", MEMORY_HINT),
    valued("blkio-weight", "disks have limits, not weights", "`--device-read-bps` and the like are limits"),
    valued("blkio-weight-device", "disks have limits, not weights", "`--device-read-bps` and the like are limits"),
    valued("volumes-from", "the volumes of another container cannot be taken over", "name them with `-v NAME:PATH`"),
    valued("volume-driver", "volumes are ext4 disks, there are no drivers", "leave it away"),
    switch("use-api-socket", "there is no daemon, and so no socket", "leave it away"),
];

/// The flags that were given all the same.
#[derive(Debug, Default)]
pub(crate) struct RefusedFlags(Vec<&'static Refused>);

impl RefusedFlags {
    /// Says why, where there is one.
    ///
    /// # Errors
    ///
    /// The first of them.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        match self.0.first() {
            None => Ok(()),
            Some(flag) => Err(Refusal::new(format!("--{} is not supported: {}", flag.long, flag.reason), flag.hint)),
        }
    }
}

impl Args for RefusedFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(REFUSED.iter().map(|flag| {
            let arg = Arg::new(flag.long).long(flag.long).short(flag.short).hide(true).action(ArgAction::Append);
            if flag.valued {
                arg.allow_hyphen_values(true)
            } else {
                arg.num_args(0..=1).require_equals(true).default_missing_value("true")
            }
        }))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RefusedFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let asked = |flag: &&Refused| {
            let given = matches.value_source(flag.long) == Some(ValueSource::CommandLine);
            let mut values = matches.get_many::<String>(flag.long).into_iter().flatten();
            given && values.any(|value| value != flag.harmless)
        };
        Ok(Self(REFUSED.iter().filter(asked).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(words: &[&str]) -> Result<(), String> {
        let command = RefusedFlags::augment_args(clap::Command::new("run").no_binary_name(true));
        let matches = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
        RefusedFlags::from_arg_matches(&matches).unwrap().check().map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn reasons() {
        assert_eq!(given(&[]), Ok(()));
        assert_eq!(given(&["--oom-kill-disable=false", "--ipc=private", "--cgroupns", "private"]), Ok(()));
        for (words, start) in [
            (&["--gpus", "all"][..], "--gpus is not supported: a GPU"),
            (&["--oom-kill-disable"], "--oom-kill-disable is not supported: a guest that"),
            (&["--device=/dev/kvm"], "--device is not supported: a container's machine"),
            (&["-p", "80:80"], "--publish is not supported: containers have no network"),
            (&["-P"], "--publish-all is not supported"),
            (&["--memory-swap", "-1"], "--memory-swap is not supported: machines have no swap"),
        ] {
            let found = given(words).unwrap_err();
            assert!(found.starts_with(start), "{words:?}: {found}");
        }
    }
}
