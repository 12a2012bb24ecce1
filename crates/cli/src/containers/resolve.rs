//! From flags to a request: the files that they name are read here.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context as _;
use engine::{
    RunRequest, environment,
    rates::RateRequest,
    request::{HealthRequest, RestartPolicy},
};

use crate::{
    containers::flags::{
        NewFlags,
        container::{ContainerFlags, label},
        health::HealthFlags,
        limits::LimitFlags,
        security::SecurityOption,
    },
    output::report::Refusal,
};

/// The request that the flags of `create` and `run` make.
pub(crate) fn request(flags: &NewFlags) -> anyhow::Result<RunRequest> {
    let NewFlags { image, command, container, process, health, limits, files, security, refused } = flags;
    refused.check()?;
    if container.rm && container.restart != RestartPolicy::No {
        let hint = "a container that is removed when it ends has nothing to be started again: leave one of them away";
        return Err(Refusal::new("--rm and --restart cannot be given together", hint).into());
    }
    let mut no_new_privileges = security.security_opt.iter().filter_map(|option| match option {
        SecurityOption::NoNewPrivileges(value) => Some(*value),
        _ => None,
    });
    Ok(RunRequest {
        image: image.clone(),
        command: command.clone(),
        entrypoint: process.entrypoint.clone(),
        env: environment(&process.env_file, &process.env)?,
        working_dir: given(&process.workdir),
        user: given(&process.user),
        groups: process.group_add.clone(),
        tty: process.tty,
        interactive: process.interactive,
        auto_remove: container.rm,
        name: given(&container.name),
        hostname: given(&container.hostname),
        cpu_milli: limits.cpus,
        memory: limits.memory,
        scratch_size: limits.storage_opt,
        shm_size: limits.shm_size,
        pids_limit: limits.pids_limit.and_then(|limit| limit.0),
        read_only: files.read_only,
        volumes: files.volume.iter().chain(&files.mount).cloned().collect(),
        rates: rates(limits),
        tmpfs: files.tmpfs.clone(),
        cap_add: security.cap_add.clone(),
        cap_drop: security.cap_drop.clone(),
        privileged: security.privileged,
        no_new_privileges: no_new_privileges.next_back().unwrap_or(false),
        ulimits: limits.ulimit.clone(),
        sysctls: security.sysctl.clone(),
        init: process.init,
        platform: given(&container.platform),
        labels: labels(container)?,
        annotations: container.annotation.iter().cloned().collect(),
        stop_signal: process.stop_signal.clone(),
        stop_timeout: process.stop_timeout,
        restart: container.restart,
        health: health_request(health),
        log_driver: given(&container.log_driver),
        log_opts: container.log_opt.iter().cloned().collect(),
        oom_score_adj: limits.oom_score_adj,
        seccomp: seccomp(&security.security_opt)?,
    })
}

/// An empty text is none.
fn given(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

fn rates(limits: &LimitFlags) -> Vec<RateRequest> {
    let LimitFlags { device_read_bps, device_write_bps, device_read_iops, device_write_iops, .. } = limits;
    [device_read_bps, device_write_bps, device_read_iops, device_write_iops].into_iter().flatten().cloned().collect()
}

fn health_request(flags: &HealthFlags) -> HealthRequest {
    HealthRequest {
        none: flags.no_healthcheck,
        command: flags.health_cmd.clone().filter(|command| !command.is_empty()),
        interval: flags.health_interval,
        timeout: flags.health_timeout,
        start_period: flags.health_start_period,
        start_interval: flags.health_start_interval,
        retries: flags.health_retries,
    }
}

/// The entries of files of variables, then the others.
pub(crate) fn environment(files: &[std::path::PathBuf], entries: &[String]) -> anyhow::Result<Vec<String>> {
    let mut env = Vec::new();
    for path in files {
        env.extend(environment_file(path)?);
    }
    env.extend(entries.iter().cloned());
    Ok(env)
}

fn environment_file(path: &Path) -> anyhow::Result<Vec<String>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read environment file {}", path.display()))?;
    environment::parse_file(&bytes, |name| std::env::var(name).ok())
        .with_context(|| format!("environment file {} cannot be used", path.display()))
}

/// Those of the files, then the others; the last of a key counts.
fn labels(flags: &ContainerFlags) -> anyhow::Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for path in &flags.label_file {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read label file {}", path.display()))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let in_line = || format!("label file {}, line {}", path.display(), number + 1);
            labels.extend([label(line).with_context(in_line)?]);
        }
    }
    labels.extend(flags.label.iter().cloned());
    Ok(labels)
}

/// The text of the last profile of system calls that is named, unless confinement is refused after it.
fn seccomp(options: &[SecurityOption]) -> anyhow::Result<Option<String>> {
    let last = options.iter().rev().find_map(|option| match option {
        SecurityOption::Seccomp(path) => Some(Some(path)),
        SecurityOption::Unconfined => Some(None),
        SecurityOption::NoNewPrivileges(_) => None,
    });
    let Some(path) = last.flatten() else { return Ok(None) };
    let text = fs::read_to_string(path).with_context(|| format!("cannot read seccomp profile {path}"))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    fn requested(words: &[&str]) -> anyhow::Result<RunRequest> {
        let command = NewFlags::augment_args(clap::Command::new("create").no_binary_name(true).disable_help_flag(true));
        let flags = NewFlags::from_arg_matches(&command.try_get_matches_from(words)?)?;
        request(&flags)
    }

    #[test]
    fn labels_of_files_and_flags() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("labels");
        fs::write(&file, "# names\na=1\n\n  b\nc=x=y\n").unwrap();
        let file = file.to_str().unwrap();
        let labels = requested(&["--label-file", file, "-l", "a=2", "busybox"]).unwrap().labels;
        let shown: Vec<_> = labels.iter().map(|(key, value)| format!("{key}:{value}")).collect();
        assert_eq!(shown, ["a:2", "b:", "c:x=y"]);
        assert!(requested(&["--label-file", "/no/such/file", "busybox"]).is_err());
    }

    #[test]
    fn health_and_life() {
        let flags = ["--health-cmd", "true", "--health-interval=5s", "--restart=on-failure:3", "--stop-timeout=-1"];
        let request = requested(&[&flags[..], &["--stop-signal", "INT", "busybox", "sleep", "1"]].concat()).unwrap();
        assert_eq!(request.health.command.as_deref(), Some("true"));
        assert_eq!(request.health.interval, Some(std::time::Duration::from_secs(5)));
        assert_eq!((request.restart.max(), request.stop_timeout), (3, Some(-1)));
        assert_eq!((request.stop_signal.as_deref(), request.command.len()), (Some("INT"), 2));
    }

    #[test]
    fn profiles_are_read_and_refusals_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("profile.json");
        fs::write(&file, "{}").unwrap();
        let option = format!("seccomp={}", file.display());
        let profile = |words: &[&str]| requested(&[words, &["busybox"]].concat()).unwrap().seccomp;
        assert_eq!(profile(&["--security-opt", &option]).as_deref(), Some("{}"));
        assert_eq!(profile(&["--security-opt", &option, "--security-opt", "seccomp=unconfined"]), None);
        assert!(requested(&["--gpus", "all", "busybox"]).unwrap_err().to_string().contains("--gpus is not supported"));
    }
}
