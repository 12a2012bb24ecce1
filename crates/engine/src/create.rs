//! Making a container: from a request to a record and a scratch disk.

use std::{collections::BTreeMap, fs, thread, time::SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use state::{Claim, ContainerRecord, ImageRecord, StateError};

use crate::{
    Engine,
    accelerator::{self, Chosen},
    claim::Claimed,
    error::Error,
    file_daemon, home,
    life::Healthcheck,
    mounts, names,
    plan::{self, Host, ImageDefaults, Resolved},
    process,
    request::{AcceleratorChoice, RunRequest},
};

/// How a container is made, apart from what it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct CreateOptions {
    /// The accelerator that it is to have.
    pub accelerator: AcceleratorChoice,
}

/// A container that was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What the user should know of its accelerator: one line.
    pub notice: Option<String>,
    /// What of the request has no effect, a line each.
    pub warnings: Vec<String>,
}

/// What the record keeps of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// As it was asked.
    pub request: RunRequest,
    /// As it was resolved.
    pub resolved: Resolved,
    /// What it runs with.
    pub accelerator: monitor::Accelerator,
    /// vCPUs and MiB of the machine that runs, where its next one is to be another.
    #[serde(default)]
    pub launched: Option<(u8, u32)>,
}

impl Spec {
    /// That of a container.
    ///
    /// # Errors
    ///
    /// [`Error::UnreadableSpec`].
    pub fn of(record: &ContainerRecord) -> Result<Self, Error> {
        serde_json::from_value(record.spec.clone())
            .map_err(|source| Error::UnreadableSpec { name: record.name.clone(), source })
    }
}

/// A request that can become a container.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) id: String,
    pub(crate) image: ImageRecord,
    pub(crate) chosen: Chosen,
    pub(crate) host: Host,
    pub(crate) spec: Spec,
}

impl Engine {
    /// Makes a container and does not start it. When this fails, nothing of it is left.
    ///
    /// # Errors
    ///
    /// [`Error`], naming what is in the way.
    pub fn create(&self, request: &RunRequest, options: &CreateOptions) -> Result<Created, Error> {
        let prepared = self.prepare(request, options.accelerator)?;
        let claimed = self.insert(&prepared, Claim::Create)?;
        self.furnish(&prepared)?;
        let name = claimed.record.name.clone();
        claimed.release()?;
        Ok(Created { id: prepared.id, name, notice: prepared.chosen.notice, warnings: warnings(request) })
    }

    /// Resolves a request against image and host. Nothing is written.
    pub(crate) fn prepare(&self, request: &RunRequest, accelerator: AcceleratorChoice) -> Result<Prepared, Error> {
        if let Some(name) = &request.name {
            names::check_name(name)?;
        }
        let image = self.image_of(request)?;
        let defaults = self.image_defaults(&image)?;
        self.check_installation()?;
        let chosen = accelerator::choose(accelerator, self.installation(), self.home())?;
        let host = host()?;
        let id = names::new_id().map_err(|source| Error::Host("getting random numbers", source))?;
        let resolved = plan::resolve(&id, request, &defaults, &host)?;
        // What of a plan depends on no file is refused before anything is written.
        plan::process_spec(request, &resolved)?;
        mounts::check_sources(&resolved.binds)?;
        if !resolved.binds.is_empty() {
            file_daemon::find(self.installation())?;
        }
        let spec = Spec { request: request.clone(), resolved, accelerator: chosen.accelerator, launched: None };
        Ok(Prepared { id, image, chosen, host, spec })
    }

    pub(crate) fn check_installation(&self) -> Result<(), Error> {
        match self.installation().missing() {
            Some((part, path)) => Err(Error::MissingPart { part, path: path.to_owned() }),
            None => Ok(()),
        }
    }

    fn image_of(&self, request: &RunRequest) -> Result<ImageRecord, Error> {
        let image = self.images().resolve(&request.image)?;
        let Some(text) = &request.platform else { return Ok(image) };
        let asked: image::Platform = text.parse()?;
        if image.platform.parse().is_ok_and(|has: image::Platform| has.suits(&asked)) {
            return Ok(image);
        }
        Err(Error::Platform { image: request.image.clone(), has: image.platform, asked: asked.to_string() })
    }

    fn image_defaults(&self, image: &ImageRecord) -> Result<ImageDefaults, Error> {
        let typed = self.images().config(image)?;
        let Some(config) = typed.config() else { return Ok(ImageDefaults::default()) };
        // Health checks are Docker's own: the specification's types do not have them.
        let raw = self.images().inspect(image)?.config;
        let keys = |name: &str| {
            let keys = raw.get(name).and_then(Value::as_object).into_iter().flat_map(|object| object.keys().cloned());
            keys.collect::<Vec<_>>()
        };
        let labels = config.labels().iter().flatten().map(|(k, v)| (k.clone(), v.clone()));
        Ok(ImageDefaults {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            user: config.user().clone().unwrap_or_default(),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            stop_signal: config.stop_signal().clone(),
            labels: labels.collect::<BTreeMap<_, _>>(),
            health: Healthcheck::of_config(&raw),
            volumes: config.volumes().clone().unwrap_or_default(),
            exposed_ports: keys("ExposedPorts"),
        })
    }

    /// Writes the record, with a name that is free. This process is responsible for the container until its claim ends.
    pub(crate) fn insert(&self, prepared: &Prepared, claim: Claim) -> Result<Claimed<'_>, Error> {
        let Prepared { id, image, spec, .. } = prepared;
        let request = &spec.request;
        let holder = self.own_process()?;
        let now = process::wall_clock_ns();
        let mut record = ContainerRecord::new(id.clone(), String::new(), image.id.clone(), request.image.clone(), now);
        record.auto_remove = request.auto_remove;
        record.labels = spec.resolved.labels.clone();
        record.keeper = Some(holder.clone());
        record.claim = Some(claim);
        record.spec = spec_value(spec)?;
        for attempt in 0.. {
            record.name = match &request.name {
                Some(name) => name.clone(),
                None => names::new_name(attempt).map_err(|source| Error::Host("getting random numbers", source))?,
            };
            match self.state().insert_container(&record) {
                Ok(()) => break,
                Err(StateError::NameInUse { .. }) if request.name.is_none() && attempt < 16 => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Claimed::written(self, record, holder))
    }

    /// Makes a container's scratch disk and its volumes.
    pub(crate) fn furnish(&self, prepared: &Prepared) -> Result<(), Error> {
        let resolved = &prepared.spec.resolved;
        self.use_volumes(&prepared.id, &resolved.volumes)?;
        let directory = self.home().container(&prepared.id);
        home::make_private(&directory).map_err(|source| Error::home("make", &directory, source))?;
        volume::Scratch::create(&self.home().data, &directory, resolved.scratch_size)?;
        Ok(())
    }
}

/// A spec as the record keeps it.
pub(crate) fn spec_value(spec: &Spec) -> Result<Value, Error> {
    serde_json::to_value(spec).map_err(|error| Error::Host("encoding the record", error.into()))
}

/// What of a request has no effect.
fn warnings(request: &RunRequest) -> Vec<String> {
    let mut warnings = Vec::new();
    if request.auto_remove && request.restart != crate::request::RestartPolicy::No {
        warnings.push("it is removed when it ends, so that the restart policy has no effect".to_owned());
    }
    warnings
}

/// What this host has.
pub(crate) fn host() -> Result<Host, Error> {
    // Those of the host: that this command is kept to some of them says nothing of the machine.
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok();
    let cpus = online.as_deref().and_then(cpu_count);
    let cpus = cpus.or_else(|| u32::try_from(thread::available_parallelism().ok()?.get()).ok()).unwrap_or(1);
    let meminfo = fs::read_to_string("/proc/meminfo").map_err(|source| Error::Host("reading /proc/meminfo", source))?;
    Ok(Host {
        cpus,
        memory: meminfo_bytes(&meminfo, "MemTotal").unwrap_or(u64::MAX),
        wall_clock: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        // A host without resolvers has none to give.
        resolv_conf: fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        upstream_resolv_conf: fs::read_to_string("/run/systemd/resolve/resolv.conf").ok(),
    })
}

/// How many a list such as `0-3,8` names (the format of cpuset(7)).
fn cpu_count(list: &str) -> Option<u32> {
    list.trim().split(',').try_fold(0_u32, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// A row of `/proc/meminfo` in bytes.
pub(crate) fn meminfo_bytes(meminfo: &str, row: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus() {
        assert_eq!(cpu_count("0-3,8\n"), Some(5));
        assert_eq!(cpu_count("0\n"), Some(1));
        for text in ["", "x", "3-1", "0-", "0-4294967295"] {
            assert_eq!(cpu_count(text), None, "{text}");
        }
    }

    #[test]
    fn meminfo() {
        let text = "MemTotal:       24542312 kB\nMemFree:  1 kB\n";
        assert_eq!(meminfo_bytes(text, "MemTotal"), Some(24_542_312 << 10));
        assert_eq!(meminfo_bytes(text, "Mem"), None);
        assert_eq!(meminfo_bytes("", "MemTotal"), None);
    }
}
