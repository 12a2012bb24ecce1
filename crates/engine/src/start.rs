//! Starting a container that is there: from its record to a keeper that has everything.

use machine::Extent;
use protocol::TerminalSize;
use state::{Claim, ContainerRecord, ContainerState, StateError};

use crate::{
    Engine,
    accelerator::{self, Chosen},
    claim::Claimed,
    create::{self, Spec},
    error::Error,
    keeper::{Launch, client::StartedKeeper, wire::AttachedStreams},
    mounts,
    plan::{self, Files, Host, Plan},
    request::AcceleratorChoice,
    run::Run,
    timings::{self, Timings},
};

/// Of the eight places for devices in the emulator's machine, root, scratch, vsock and entropy take four.
const EMULATED_VOLUMES: usize = 4;

/// How a container is started.
#[derive(Debug, Clone, Copy, Default)]
pub struct StartOptions {
    /// Streams to connect; with none of them, nobody is attached.
    pub streams: AttachedStreams,
    /// Size of the terminal.
    pub terminal_size: TerminalSize,
    /// The accelerator.
    pub accelerator: AcceleratorChoice,
    /// `CLOCK_MONOTONIC` when the command began, nanoseconds.
    pub begun: u64,
}

/// What a start came to.
#[derive(Debug)]
pub enum StartOutcome<'a> {
    /// It was launched.
    Launched(Box<Run<'a>>),
    /// It lives already.
    Already,
}

/// Everything that a launch needs beside the container.
pub(crate) struct LaunchPad {
    pub(crate) keeper: StartedKeeper,
    pub(crate) chosen: Chosen,
    pub(crate) host: Host,
    pub(crate) streams: AttachedStreams,
    pub(crate) detach: bool,
    pub(crate) terminal_size: TerminalSize,
    pub(crate) timings: Timings,
}

impl Engine {
    /// Starts a container that does not run. Its scratch disk is as it left it.
    ///
    /// # Errors
    ///
    /// [`Error::Paused`]; [`Error::State`] where another command has the container; whatever keeps it from being
    /// launched.
    pub fn start(&self, name: &str, options: &StartOptions) -> Result<StartOutcome<'_>, Error> {
        let found = self.container(name)?;
        match found.state {
            ContainerState::Paused => return Err(Error::Paused(found.name)),
            ContainerState::Running | ContainerState::Restarting if self.is_kept(&found)? => {
                return Ok(StartOutcome::Already);
            }
            _ => {}
        }
        let keeper = StartedKeeper::start()?;
        let claimed = match self.claim(&found.id, Claim::Start) {
            // It was started meanwhile.
            Err(Error::State(StateError::ContainerRunning { state: ContainerState::Running, .. })) => {
                return Ok(StartOutcome::Already);
            }
            claimed => claimed?,
        };
        self.check_installation()?;
        let chosen = accelerator::choose(options.accelerator, self.installation(), self.home())?;
        let spec = Spec { accelerator: chosen.accelerator, launched: None, ..Spec::of(&claimed.record)? };
        let value = create::spec_value(&spec)?;
        self.state().update_container(&claimed.record.id, |record| {
            record.spec = value;
            (record.stopped_by_user, record.restart_count) = (false, 0);
        })?;
        let pad = LaunchPad {
            keeper,
            chosen,
            host: create::host()?,
            streams: options.streams,
            detach: options.streams.count() == 0,
            terminal_size: options.terminal_size,
            timings: Timings { begun: options.begun, planned: Some(timings::now()), ..Timings::default() },
        };
        let run = self.launch(claimed, &spec, pad)?;
        Ok(StartOutcome::Launched(Box::new(run)))
    }

    /// Hands a claimed container with its scratch disk to a keeper.
    pub(crate) fn launch<'a>(&'a self, claimed: Claimed<'a>, spec: &Spec, pad: LaunchPad) -> Result<Run<'a>, Error> {
        let LaunchPad { keeper, chosen, host, streams, detach, terminal_size, mut timings } = pad;
        let Spec { request, resolved, .. } = spec;
        let record = &claimed.record;
        let (plan, lease) = self.plan_of(record, spec, &chosen, &host)?;
        timings.disks = Some(timings::now());
        let launch = Launch {
            id: record.id.clone(),
            home: self.home().clone(),
            auto_remove: record.auto_remove,
            plan,
            accelerator: chosen.accelerator,
            vmm: self.installation().vmm.clone(),
            emulator: chosen.emulator,
            file_daemon: self.file_daemon(&spec.resolved.binds)?,
            terminal_size,
            detach,
            restart: if record.auto_remove { crate::request::RestartPolicy::No } else { request.restart },
            stop: resolved.stop,
            health: resolved.health.as_ref().and_then(|health| health.spec().ok().flatten()),
            log: resolved.log,
            timings,
        };
        let attachment = keeper.launch(launch, streams)?;
        let (id, name) = (record.id.clone(), record.name.clone());
        claimed.finish();
        Ok(Run::new(self, id, name, chosen.notice, attachment, Some(lease)))
    }
}

impl Engine {
    /// The plan of a container that is there, and what keeps its image's files meanwhile.
    pub(crate) fn plan_of(
        &self,
        record: &ContainerRecord,
        spec: &Spec,
        chosen: &Chosen,
        host: &Host,
    ) -> Result<(Plan, store::Lease), Error> {
        let image = self.state().image(&record.image_id)?;
        let image = image.ok_or_else(|| StateError::NoSuchImage { image: record.image_ref.clone() })?;
        let scratch = self.home().container(&record.id).join(volume::SCRATCH_NAME);
        volume::Scratch::check(&scratch)?;
        let root = self.images().root_device(&image)?;
        let (volumes, binds) = (&spec.resolved.volumes, &spec.resolved.binds);
        let files = Files {
            kernel: self.installation().kernel.clone(),
            initrd: self.installation().initrd.clone(),
            root: root.extents.iter().map(extent).collect(),
            scratch,
            volumes: self.volume_disks(&record.id, volumes, volume_places(chosen.accelerator, !binds.is_empty()))?,
        };
        Ok((plan::plan(&spec.request, &spec.resolved, files, host)?, root.lease))
    }
}

/// Places for volumes in a machine: the emulator's has fewer, and files of the host take one of them.
fn volume_places(accelerator: monitor::Accelerator, shares_files: bool) -> usize {
    match accelerator {
        monitor::Accelerator::Kvm => mounts::MAX_VOLUMES,
        monitor::Accelerator::Emulated => EMULATED_VOLUMES - usize::from(shares_files),
    }
}

fn extent(extent: &image::RootExtent) -> Extent<std::path::PathBuf> {
    Extent { file: extent.path.clone(), offset: extent.offset, length: extent.length }
}
