//! Running a container: from a request to a keeper that has everything.

use std::{fs, thread, time::SystemTime};

use machine::Extent;
use protocol::TerminalSize;
use serde::{Deserialize, Serialize};
use state::{Claim, ContainerRecord, StateError};

use crate::{
    Engine,
    accelerator::{self, Chosen},
    ending::Ending,
    error::Error,
    home,
    keeper::{
        Launch,
        client::{Attachment, Control, Pipes, StartedKeeper},
        policy::{LogSettings, RestartPolicy, StopSettings},
        record,
        wire::AttachedStreams,
    },
    mounts, names,
    plan::{self, Files, Host, ImageDefaults, Resolved},
    process, reconcile,
    request::{AcceleratorChoice, RunRequest},
    timings::{self, Timings},
};

/// Of the eight places for devices in the emulator's machine, root, scratch, vsock and entropy take four.
const EMULATED_VOLUMES: usize = 4;

/// How a container is run, apart from what it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// The accelerator.
    pub accelerator: AcceleratorChoice,
    /// Streams to connect.
    pub streams: AttachedStreams,
    /// Size of the terminal.
    pub terminal_size: TerminalSize,
    /// `CLOCK_MONOTONIC` when the command began, nanoseconds.
    pub begun: u64,
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
}

/// A container that was launched by this process.
#[derive(Debug)]
pub struct Run<'a> {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What the user should know: one line.
    pub notice: Option<String>,
    engine: &'a Engine,
    attachment: Attachment,
    /// Keeps the image's files until the container has ended, whatever becomes of the records.
    _lease: store::Lease,
}

impl Engine {
    /// Makes a container and starts it. When this fails, nothing of it is left.
    ///
    /// # Errors
    ///
    /// [`Error`], naming what is in the way.
    pub fn run(&self, request: &RunRequest, options: &RunOptions) -> Result<Run<'_>, Error> {
        if let Some(name) = &request.name {
            names::check_name(name)?;
        }
        let mut timings = Timings { begun: options.begun, ..Timings::default() };
        let keeper = StartedKeeper::start()?;
        let image = self.image(request)?;
        let defaults = image_defaults(&self.images().config(&image)?);
        if let Some((part, path)) = self.installation().missing() {
            return Err(Error::MissingPart { part, path: path.to_owned() });
        }
        let chosen = accelerator::choose(options.accelerator, self.installation(), self.home())?;
        let host = host()?;
        let id = names::new_id().map_err(|source| Error::Host("getting random numbers", source))?;
        let resolved = plan::resolve(&id, request, &defaults, &host)?;
        timings.planned = Some(timings::now());

        let root = self.images().root_device(&image)?;
        let unfinished = self.insert(&id, request, &resolved, &chosen, &image.id)?;
        self.use_volumes(&id, &resolved.volumes)?;
        let files = Files {
            kernel: self.installation().kernel.clone(),
            initrd: self.installation().initrd.clone(),
            root: root.extents.iter().map(extent).collect(),
            scratch: self.make_scratch(&id, resolved.scratch_size)?,
            volumes: self.volume_disks(&id, &resolved.volumes, volume_places(chosen.accelerator))?,
        };
        let auto_remove = request.auto_remove;
        let plan = plan::plan(request, &resolved, files, &host)?;
        timings.disks = Some(timings::now());

        let launch = Launch {
            id: id.clone(),
            home: self.home().clone(),
            auto_remove,
            plan,
            accelerator: chosen.accelerator,
            vmm: self.installation().vmm.clone(),
            emulator: chosen.emulator,
            terminal_size: options.terminal_size,
            detach: false,
            restart: RestartPolicy::No,
            stop: StopSettings::default(),
            health: None,
            log: LogSettings::default(),
            timings,
        };
        let attachment = keeper.launch(launch, options.streams)?;
        let name = unfinished.finish();
        Ok(Run { id, name, notice: chosen.notice, engine: self, attachment, _lease: root.lease })
    }

    fn image(&self, request: &RunRequest) -> Result<state::ImageRecord, Error> {
        let image = self.images().resolve(&request.image)?;
        let Some(text) = &request.platform else { return Ok(image) };
        let asked: image::Platform = text.parse()?;
        if image.platform.parse().is_ok_and(|has: image::Platform| has.suits(&asked)) {
            return Ok(image);
        }
        Err(Error::Platform { image: request.image.clone(), has: image.platform, asked: asked.to_string() })
    }

    /// Writes the record, with a name that is free. This process is responsible until the keeper takes over.
    fn insert(
        &self,
        id: &str,
        request: &RunRequest,
        resolved: &Resolved,
        chosen: &Chosen,
        image_id: &str,
    ) -> Result<Unfinished<'_>, Error> {
        let spec = Spec { request: request.clone(), resolved: resolved.clone(), accelerator: chosen.accelerator };
        let now = process::wall_clock_ns();
        let mut record =
            ContainerRecord::new(id.to_owned(), String::new(), image_id.to_owned(), request.image.clone(), now);
        record.auto_remove = request.auto_remove;
        record.keeper = Some(process::current().map_err(|source| Error::Host("reading /proc", source))?);
        record.claim = Some(Claim::Start);
        record.spec = serde_json::to_value(spec).map_err(|error| Error::Host("encoding the record", error.into()))?;
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
        Ok(Unfinished { engine: self, id: id.to_owned(), name: record.name, finished: false })
    }

    fn make_scratch(&self, id: &str, size: u64) -> Result<std::path::PathBuf, Error> {
        let directory = self.home().container(id);
        home::make_private(&directory).map_err(|source| Error::home("make", &directory, source))?;
        Ok(volume::Scratch::create(&self.home().data, &directory, size)?)
    }

    /// What became of a container whose keeper is gone.
    fn ending_of_lost(&self, id: &str) -> Ending {
        let lost = || Ending {
            reason: crate::ending::Reason::KeeperKilled,
            ..Ending::engine_error("the container's keeper died, and its machine with it".to_owned())
        };
        // The socket closes a moment before the process is gone.
        for _ in 0..50 {
            if reconcile::reconcile(self.state(), self.home()).is_err() {
                break;
            }
            match self.state().container(id) {
                Ok(record) if record.state == state::ContainerState::Exited => {
                    return Ending {
                        exit_code: record.exit_code.and_then(|c| u8::try_from(c).ok()).unwrap_or(crate::ending::UNSEEN),
                        error: record.error,
                        ..lost()
                    };
                }
                Ok(_) => thread::sleep(std::time::Duration::from_millis(20)),
                Err(_) => break,
            }
        }
        Ending { exit_code: crate::ending::UNSEEN, ..lost() }
    }
}

impl Run<'_> {
    /// For signals, sizes and the like while somebody waits.
    #[must_use]
    pub fn control(&self) -> Control {
        self.attachment.control()
    }

    /// Takes the streams.
    #[must_use]
    pub fn take_pipes(&mut self) -> Pipes {
        self.attachment.take_pipes()
    }

    /// Waits for the end; `started` is called when the process runs.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub fn wait(self, started: impl FnMut()) -> Result<Ending, Error> {
        let ending = self.attachment.wait(started)?;
        Ok(ending.unwrap_or_else(|| self.engine.ending_of_lost(&self.id)))
    }
}

/// A container on its way to its keeper; removed when something goes wrong on the way.
struct Unfinished<'a> {
    engine: &'a Engine,
    id: String,
    name: String,
    finished: bool,
}

impl Unfinished<'_> {
    fn finish(mut self) -> String {
        self.finished = true;
        std::mem::take(&mut self.name)
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // What stays now is found by the next command: this process is responsible, and ends.
            let _ = record::remove_with_volumes(self.engine.state(), self.engine.home(), &self.id);
        }
    }
}

fn extent(extent: &image::RootExtent) -> Extent<std::path::PathBuf> {
    Extent { file: extent.path.clone(), offset: extent.offset, length: extent.length }
}

/// Places for volumes in a machine: the emulator's has fewer.
fn volume_places(accelerator: monitor::Accelerator) -> usize {
    match accelerator {
        monitor::Accelerator::Kvm => mounts::MAX_VOLUMES,
        monitor::Accelerator::Emulated => EMULATED_VOLUMES,
    }
}

fn image_defaults(config: &oci_spec::image::ImageConfiguration) -> ImageDefaults {
    let Some(config) = config.config() else { return ImageDefaults::default() };
    ImageDefaults {
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        user: config.user().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default(),
        stop_signal: config.stop_signal().clone(),
        volumes: config.volumes().clone().unwrap_or_default(),
    }
}

/// What this host has.
fn host() -> Result<Host, Error> {
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let meminfo = fs::read_to_string("/proc/meminfo").map_err(|source| Error::Host("reading /proc/meminfo", source))?;
    Ok(Host {
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        memory: meminfo_bytes(&meminfo, "MemTotal").unwrap_or(u64::MAX),
        wall_clock: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        // A host without resolvers has none to give.
        resolv_conf: fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        upstream_resolv_conf: fs::read_to_string("/run/systemd/resolve/resolv.conf").ok(),
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
    fn meminfo() {
        let text = "MemTotal:       24542312 kB\nMemFree:  1 kB\n";
        assert_eq!(meminfo_bytes(text, "MemTotal"), Some(24_542_312 << 10));
        assert_eq!(meminfo_bytes(text, "Mem"), None);
        assert_eq!(meminfo_bytes("", "MemTotal"), None);
    }
}
