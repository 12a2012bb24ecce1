//! A container as `inspect` shows it.

use serde_json::{Map, Value, json};
use state::{ContainerRecord, ContainerState};

use crate::{Engine, create::Spec, error::Error, home::Home, host_limits, keeper::record, mounts};

impl Engine {
    /// A container as `inspect` shows it; with `size`, what it takes on disk, too.
    ///
    /// # Errors
    ///
    /// [`Error::State`].
    pub fn inspect(&self, name: &str, size: bool) -> Result<Value, Error> {
        let record = self.container(name)?;
        let mut value = inspect(&record, self.home());
        if size {
            let writable = self.container_size(&record.id);
            let image = self.state().image(&record.image_id)?.map_or(0, |image| image.size);
            value["SizeRw"] = json!(writable);
            value["SizeRootFs"] = json!(writable + image);
        }
        Ok(value)
    }
}

/// A container as `inspect` shows it: Docker's names, and what only Coracle has under `Coracle`.
#[must_use]
pub fn inspect(record: &ContainerRecord, home: &Home) -> Value {
    let spec = Spec::of(record).ok();
    let argv = spec.as_ref().map(|spec| spec.resolved.argv.clone()).unwrap_or_default();
    let has_log = spec.as_ref().is_some_and(|spec| spec.resolved.log.enabled);
    json!({
        "Id": record.id,
        "Created": rfc3339(Some(record.created_at)),
        "Path": argv.first(),
        "Args": argv.get(1..).unwrap_or_default(),
        "State": state(record),
        "Image": record.image_id,
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": if has_log { json!(home.log(&record.id)) } else { json!("") },
        "Name": format!("/{}", record.name),
        "RestartCount": record.restart_count,
        "Driver": "coracle",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "Mounts": spec.as_ref().map_or_else(|| json!([]), |spec| mount_points(spec, home)),
        "Config": spec.as_ref().map(config),
        "HostConfig": spec.as_ref().map(|spec| host_config(spec, record.auto_remove)),
        "NetworkSettings": network_settings(),
        "Coracle": own(record, spec.as_ref(), home),
    })
}

fn state(record: &ContainerRecord) -> Value {
    let is = |state| record.state == state;
    let machine = record.machine.as_ref().filter(|_| is(ContainerState::Running) || is(ContainerState::Paused));
    let mut value = json!({
        "Status": record.state.as_str(),
        "Running": record.state.is_live(),
        "Paused": is(ContainerState::Paused),
        "Restarting": is(ContainerState::Restarting),
        "OOMKilled": record.oom_killed || timings_of(record).oom_killed,
        "Dead": false,
        "Pid": machine.map_or(0, |machine| machine.pid),
        "ExitCode": record.exit_code.unwrap_or(0),
        "Error": record.error.clone().unwrap_or_default(),
        "StartedAt": rfc3339(record.started_at),
        "FinishedAt": rfc3339(record.finished_at),
    });
    if let Some(health) = &record.health {
        value["Health"] = health.clone();
    }
    value
}

fn config(spec: &Spec) -> Value {
    let Spec { request, resolved, .. } = spec;
    let (entrypoint, cmd) = resolved.argv.split_at(resolved.entrypoint_words.min(resolved.argv.len()));
    let empty = |keys: &[String]| keys.iter().map(|key| (key.clone(), json!({}))).collect::<Map<_, _>>();
    let volumes = resolved.volumes.iter().filter(|mount| mount.anonymous);
    let volumes: Vec<_> = volumes.map(|mount| mount.target.clone()).collect();
    let mut value = json!({
        "Hostname": resolved.hostname,
        "Domainname": "",
        "User": resolved.user,
        "AttachStdin": request.interactive,
        "AttachStdout": true,
        "AttachStderr": !request.tty,
        "Tty": request.tty,
        "OpenStdin": request.interactive,
        "StdinOnce": request.interactive,
        "Env": resolved.env,
        "Entrypoint": if entrypoint.is_empty() { Value::Null } else { json!(entrypoint) },
        "Cmd": if cmd.is_empty() { Value::Null } else { json!(cmd) },
        "Image": request.image,
        "Volumes": if volumes.is_empty() { Value::Null } else { json!(empty(&volumes)) },
        "WorkingDir": resolved.working_dir,
        "Labels": resolved.labels,
        "StopSignal": resolved.stop_signal,
    });
    if let Some(seconds) = request.stop_timeout {
        value["StopTimeout"] = json!(seconds);
    }
    if !resolved.exposed_ports.is_empty() {
        value["ExposedPorts"] = json!(empty(&resolved.exposed_ports));
    }
    if let Some(health) = &resolved.health {
        value["Healthcheck"] = json!(health);
    }
    value
}

fn host_config(spec: &Spec, auto_remove: bool) -> Value {
    let Spec { request, resolved, .. } = spec;
    let sysctls: Map<_, _> = request.sysctls.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    let tmpfs: Map<_, _> = request.tmpfs.iter().map(|t| (t.path.clone(), json!(t.options))).collect();
    let driver = if resolved.log.enabled { "json-file" } else { "none" };
    json!({
        "Annotations": request.annotations,
        "Binds": binds(spec),
        "LogConfig": { "Type": driver, "Config": request.log_opts },
        "NetworkMode": "none",
        "PortBindings": {},
        "RestartPolicy": { "Name": request.restart.name(), "MaximumRetryCount": request.restart.max() },
        "AutoRemove": auto_remove,
        "Privileged": request.privileged,
        "ReadonlyRootfs": request.read_only,
        "CapAdd": nothing_or(&request.cap_add),
        "CapDrop": nothing_or(&request.cap_drop),
        "GroupAdd": nothing_or(&request.groups),
        "SecurityOpt": security_options(spec),
        "NanoCpus": request.cpu_milli.map_or(0, |milli| u64::from(milli) * 1_000_000),
        "Memory": request.memory.unwrap_or(0),
        "OomScoreAdj": request.oom_score_adj.unwrap_or(0),
        "OomKillDisable": false,
        "PidsLimit": request.pids_limit,
        "ShmSize": request.shm_size.unwrap_or(crate::plan::DEFAULT_SHM),
        "StorageOpt": request.scratch_size.map(|size| json!({ "size": size.to_string() })),
        "Ulimits": request.ulimits.iter().filter_map(|text| ulimit(text)).collect::<Vec<_>>(),
        "Sysctls": sysctls,
        "Tmpfs": tmpfs,
        "Mounts": Value::Null,
        "Init": request.init,
        "Runtime": "coracle",
    })
}

fn nothing_or(words: &[String]) -> Value {
    if words.is_empty() { Value::Null } else { json!(words) }
}

fn security_options(spec: &Spec) -> Value {
    let mut options = Vec::new();
    if spec.request.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    if let Some(profile) = &spec.request.seccomp {
        options.push(format!("seccomp={profile}"));
    }
    nothing_or(&options)
}

fn ulimit(text: &str) -> Option<Value> {
    let name = text.split_once('=')?.0;
    let limit = crate::rlimit::parse(text).ok()?;
    let number = |value: u64| i64::try_from(value).unwrap_or(-1);
    Some(json!({ "Name": name, "Soft": number(limit.soft), "Hard": number(limit.hard) }))
}

/// Named volumes and files of the host as `-v` has them.
fn binds(spec: &Spec) -> Value {
    let volumes = spec.resolved.volumes.iter().filter(|mount| !mount.anonymous);
    let volumes = volumes.map(|mount| (&mount.volume, &mount.target, mount.read_only));
    let binds = spec.resolved.binds.iter().map(|mount| (&mount.source, &mount.target, mount.read_only));
    let texts = volumes.chain(binds).map(|(source, target, read_only)| {
        let options = if read_only { ":ro" } else { "" };
        format!("{source}:{target}{options}")
    });
    nothing_or(&texts.collect::<Vec<_>>())
}

fn mount_points(spec: &Spec, home: &Home) -> Value {
    let volumes = spec.resolved.volumes.iter().map(|mount| {
        json!({
            "Type": "volume",
            "Name": mount.volume,
            "Source": home.volume(&mount.volume),
            "Destination": mount.target,
            "Driver": "block",
            "Mode": if mount.read_only { "ro" } else { "" },
            "RW": !mount.read_only,
            "Propagation": "",
        })
    });
    let tmpfs = mounts::tmpfs(&spec.request.volumes).map(|tmpfs| {
        json!({
            "Type": "tmpfs",
            "Source": "",
            "Destination": tmpfs.path,
            "Mode": tmpfs.options,
            "RW": true,
            "Propagation": "",
        })
    });
    let binds = spec.resolved.binds.iter().map(|mount| {
        json!({
            "Type": "bind",
            "Source": mount.source,
            "Destination": mount.target,
            "Mode": if mount.read_only { "ro" } else { "" },
            "RW": !mount.read_only,
            "Propagation": "rprivate",
        })
    });
    volumes.chain(binds).chain(tmpfs).collect()
}

/// What there is of networks: none.
fn network_settings() -> Value {
    json!({ "Ports": {}, "Networks": {}, "IPAddress": "", "Gateway": "", "MacAddress": "" })
}

fn own(record: &ContainerRecord, spec: Option<&Spec>, home: &Home) -> Value {
    let directory = home.container(&record.id);
    json!({
        "Reason": record.reason,
        "KernelLog": record.kernel_log_tail,
        "Accelerator": spec.map(|spec| spec.accelerator),
        "StoppedByUser": record.stopped_by_user,
        "Machine": spec.map(|spec| json!({
            "Pid": record.machine.as_ref().map(|machine| machine.pid),
            "VCPUs": spec.launched.map_or(spec.resolved.vcpus, |(vcpus, _)| vcpus),
            "MemoryMiB": spec.launched.map_or(spec.resolved.memory_mib, |(_, memory)| memory),
            "ScratchBytes": spec.resolved.scratch_size,
        })),
        "HostLimits": host_limits::inspect(home, &record.id),
        "Scratch": { "Path": directory.join(volume::SCRATCH_NAME) },
        "Keeper": {
            "Pid": record.keeper.as_ref().filter(|_| record.claim.is_none()).map(|keeper| keeper.pid),
            "Socket": home.control_socket(&record.id),
        },
        "Timings": timings(&timings_of(record).timings),
    })
}

fn timings_of(record: &ContainerRecord) -> record::TimingsAndMemory {
    record.timings.clone().and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default()
}

/// The phases in milliseconds.
fn timings(timings: &crate::timings::Timings) -> Value {
    let milliseconds = |nanoseconds: u64| json!((nanoseconds / 1000) as f64 / 1000.0);
    let rows = timings.rows();
    let rows = rows.iter().map(|row| {
        let name = row.phase.replace(' ', "_");
        (name, json!({ "TookMs": milliseconds(row.took), "AtMs": milliseconds(row.at) }))
    });
    Value::Object(rows.collect())
}

/// Nanoseconds since 1970 as text; Docker's zero time for what did not happen.
pub(crate) fn rfc3339(nanoseconds: Option<i64>) -> String {
    nanoseconds
        .and_then(|ns| jiff::Timestamp::from_nanosecond(i128::from(ns)).ok())
        .map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |time| format!("{time:.9}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inspect_of_a_container_that_never_ran() {
        let record = ContainerRecord::new(
            "ab".repeat(32),
            "calm_otter".into(),
            "sha256:0".into(),
            "busybox".into(),
            1_500_000_000,
        );
        let home = Home { data: "/h/data".into(), run: "/h/run".into() };
        let value = inspect(&record, &home);
        assert_eq!(value["State"]["Status"], "created");
        assert_eq!(value["State"]["StartedAt"], "0001-01-01T00:00:00Z");
        assert_eq!(value["Created"], "1970-01-01T00:00:01.500000000Z");
        assert_eq!(value["Name"], "/calm_otter");
        assert_eq!(value["Coracle"]["Reason"], Value::Null);
        assert!(value["Coracle"]["Timings"].is_object());
    }
}
