//! Containers that are there: list, inspect, remove.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use state::{ContainerRecord, ContainerState};

use crate::{
    Engine,
    error::Error,
    home,
    keeper::{client::Attachment, record},
    process, reconcile,
    run::Spec,
};

/// How long a keeper may take to end a machine before it is killed itself.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// All containers, newest first.
    ///
    /// # Errors
    ///
    /// [`Error::State`].
    pub fn containers(&self) -> Result<Vec<ContainerRecord>, Error> {
        Ok(self.state().containers()?)
    }

    /// A container by name, id or prefix of an id.
    ///
    /// # Errors
    ///
    /// [`Error::State`].
    pub fn container(&self, name: &str) -> Result<ContainerRecord, Error> {
        Ok(self.state().container(name)?)
    }

    /// Removes a container. One that runs is killed first with `force`.
    ///
    /// # Errors
    ///
    /// [`Error::Running`] without `force`, and whatever keeps its files from being removed.
    pub fn remove_container(&self, name: &str, force: bool) -> Result<(), Error> {
        let container = self.container(name)?;
        if container.state != ContainerState::Exited && container.keeper.is_some() {
            if !force {
                return Err(Error::Running(container.name));
            }
            self.kill_and_wait(&container)?;
        }
        match record::remove_container(self.state(), self.home(), &container.id) {
            // Its keeper removed it.
            Err(Error::State(state::StateError::NoSuchContainer { .. })) => Ok(()),
            removed => removed,
        }
    }

    /// Ends a container's machine through its keeper; through the host where the keeper does not answer.
    fn kill_and_wait(&self, container: &ContainerRecord) -> Result<(), Error> {
        let asked = Attachment::connect(&container.id, &self.home().control_socket(&container.id));
        if let Ok(attachment) = &asked {
            attachment.control().kill();
        }
        let boot_id = process::boot_id().map_err(|source| Error::Host("reading the boot id", source))?;
        let Some(keeper) = &container.keeper else { return Ok(()) };
        let deadline = Instant::now() + if asked.is_ok() { KILL_PATIENCE } else { Duration::ZERO };
        while process::is_alive(keeper, &boot_id) {
            if Instant::now() >= deadline {
                process::kill(keeper, &boot_id);
            }
            thread::sleep(Duration::from_millis(5));
        }
        // Its files go first: the record of its end may need the space that they take.
        let directory = self.home().container(&container.id);
        home::remove_directory(&directory).map_err(|source| Error::home("remove", &directory, source))?;
        reconcile::reconcile(self.state(), self.home())
    }
}

/// A container as `inspect` shows it: Docker's names, and what only Coracle has under `Coracle`.
#[must_use]
pub fn inspect(record: &ContainerRecord) -> Value {
    let spec: Option<Spec> = serde_json::from_value(record.spec.clone()).ok();
    let running = record.state == ContainerState::Running;
    let extra: record::TimingsAndMemory =
        record.timings.clone().and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default();
    let argv = spec.as_ref().map(|spec| spec.resolved.argv.clone()).unwrap_or_default();
    json!({
        "Id": record.id,
        "Created": rfc3339(Some(record.created_at)),
        "Path": argv.first(),
        "Args": argv.get(1..).unwrap_or_default(),
        "State": {
            "Status": record.state.as_str(),
            "Running": running,
            "Paused": false,
            "Restarting": false,
            "OOMKilled": extra.oom_killed,
            "Dead": false,
            "Pid": record.machine.as_ref().filter(|_| running).map_or(0, |machine| machine.pid),
            "ExitCode": record.exit_code.unwrap_or(0),
            "Error": record.error.clone().unwrap_or_default(),
            "StartedAt": rfc3339(record.started_at),
            "FinishedAt": rfc3339(record.finished_at),
        },
        "Image": record.image_id,
        "Name": format!("/{}", record.name),
        "Platform": "linux",
        "Config": spec.as_ref().map(config),
        "HostConfig": spec.as_ref().map(|spec| host_config(spec, record.auto_remove)),
        "Coracle": {
            "Reason": record.reason,
            "KernelLog": record.kernel_log_tail,
            "Accelerator": spec.as_ref().map(|spec| spec.accelerator),
            "Machine": spec.as_ref().map(|spec| json!({
                "Pid": record.machine.as_ref().map(|machine| machine.pid),
                "VCPUs": spec.resolved.vcpus,
                "MemoryMiB": spec.resolved.memory_mib,
                "ScratchBytes": spec.resolved.scratch_size,
            })),
            "Keeper": { "Pid": record.keeper.as_ref().map(|keeper| keeper.pid) },
            "Timings": timings(&extra.timings),
        },
    })
}

fn config(spec: &Spec) -> Value {
    let Spec { request, resolved, .. } = spec;
    let (entrypoint, cmd) = resolved.argv.split_at(resolved.entrypoint_words.min(resolved.argv.len()));
    json!({
        "Hostname": resolved.hostname,
        "User": resolved.user,
        "Tty": request.tty,
        "OpenStdin": request.interactive,
        "Env": resolved.env,
        "Entrypoint": entrypoint,
        "Cmd": cmd,
        "Image": request.image,
        "WorkingDir": resolved.working_dir,
        "StopSignal": resolved.stop_signal,
    })
}

fn host_config(spec: &Spec, auto_remove: bool) -> Value {
    let request = &spec.request;
    let sysctls: serde_json::Map<_, _> = request.sysctls.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    let tmpfs: serde_json::Map<_, _> = request.tmpfs.iter().map(|t| (t.path.clone(), json!(t.options))).collect();
    json!({
        "AutoRemove": auto_remove,
        "Privileged": request.privileged,
        "ReadonlyRootfs": request.read_only,
        "CapAdd": request.cap_add,
        "CapDrop": request.cap_drop,
        "NanoCpus": request.cpu_milli.map_or(0, |milli| u64::from(milli) * 1_000_000),
        "Memory": request.memory.unwrap_or(0),
        "PidsLimit": request.pids_limit,
        "ShmSize": request.shm_size.unwrap_or(crate::plan::DEFAULT_SHM),
        "Ulimits": request.ulimits,
        "Sysctls": sysctls,
        "Tmpfs": tmpfs,
        "Init": request.init,
    })
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
        let value = inspect(&record);
        assert_eq!(value["State"]["Status"], "created");
        assert_eq!(value["State"]["StartedAt"], "0001-01-01T00:00:00Z");
        assert_eq!(value["Created"], "1970-01-01T00:00:01.500000000Z");
        assert_eq!(value["Name"], "/calm_otter");
        assert_eq!(value["Coracle"]["Reason"], Value::Null);
        assert!(value["Coracle"]["Timings"].is_object());
    }
}
