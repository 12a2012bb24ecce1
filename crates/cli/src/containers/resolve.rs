//! From flags to a request: the files that they name are read here.

use std::{fs, path::Path};

use anyhow::Context as _;
use engine::{RunRequest, environment, rates::RateRequest};

use crate::containers::run_flags::{LimitFlags, RunFlags};

/// The request that the flags of `run` make.
pub(crate) fn request(flags: &RunFlags) -> anyhow::Result<RunRequest> {
    let RunFlags { container, process, limits, files, security, image, command, help: _ } = flags;
    let mut env = Vec::new();
    for path in &process.env_file {
        env.extend(environment_file(path)?);
    }
    env.extend(process.env.iter().cloned());
    Ok(RunRequest {
        image: image.clone(),
        command: command.clone(),
        entrypoint: process.entrypoint.clone(),
        env,
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
        no_new_privileges: security.security_opt.iter().filter_map(|option| option.0).next_back().unwrap_or(false),
        ulimits: limits.ulimit.clone(),
        sysctls: security.sysctl.clone(),
        init: process.init,
        platform: given(&container.platform),
        ..RunRequest::default()
    })
}

fn rates(limits: &LimitFlags) -> Vec<RateRequest> {
    let LimitFlags { device_read_bps, device_write_bps, device_read_iops, device_write_iops, .. } = limits;
    [device_read_bps, device_write_bps, device_read_iops, device_write_iops].into_iter().flatten().cloned().collect()
}

/// An empty text is none.
fn given(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

fn environment_file(path: &Path) -> anyhow::Result<Vec<String>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read environment file {}", path.display()))?;
    environment::parse_file(&bytes, |name| std::env::var(name).ok())
        .with_context(|| format!("environment file {} cannot be used", path.display()))
}
