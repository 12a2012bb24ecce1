//! The use cases: run, list, inspect, remove; and the container's keeper. The only place where the capabilities
//! of the lower crates meet.
//!
//! # What this crate is not for
//!
//! No terminal, no flags, no printing: a caller brings a [`RunRequest`] and gets plain data, descriptors and
//! typed errors, so that a command line, an API server and a library call are the same thing to it.
//!
//! # From a request to an end
//!
//! ```text
//!  RunRequest ──▶ image (resolve, config) ──▶ plan::resolve ──▶ record ──▶ root device, scratch disk
//!                                                                                │
//!                          ┌──────────────────────────────── plan::plan ◀────────┘
//!                          ▼
//!  this process      keeper::Launch ──▶ keeper process: machine, guest session, bytes, record, end
//! ```
//!
//! [`plan`] is pure and golden-tested: everything that a machine is made of is decided there, from data. The
//! keeper decides nothing but what to do about what happens.
//!
//! # Who owns a container
//!
//! No daemon does. A container's record names the process that is responsible for it; that is the command that
//! makes it until its [keeper] takes over. Every command begins with [`reconcile`], which finds containers whose
//! responsible process is gone and tells their end. So no process has to stay alive for the records to be true.
//!
//! # Modules
//!
//! | | |
//! |---|---|
//! | requests | [`request`], [`mounts`], [`rates`], [`quantity`], [`capability`], [`rlimit`], [`seccomp`], [`signals`], [`environment`], [`names`] |
//! | planning | [`plan`], [`life`], [`etc_files`], [`accelerator`] |
//! | beginning | [`create`], [`start`], [`run`], [`keeper`], [`timings`] |
//! | living | [`attach`], [`exec`], [`logs`], [`top`], [`stats`], [`update`], [`rename`], [`wait`], [`events`] |
//! | ending | [`stop`], [`remove`], [`prune`], [`ending`] |
//! | disks | [`volumes`], [`files`], [`task`] |
//! | records | [`list`], [`inspect`], [`space`], [`reconcile`], [`process`], `claim`, `reach` |
//! | the host | [`home`], [`settings`], [`doctor`], [`check`] |
//!
//! # Threats
//!
//! | from | what | answer |
//! |---|---|---|
//! | image configuration | commands, environments, users, directories, signals | data for the guest only; nothing of it names anything on the host |
//! | guest | whatever it says and sends | `guest` and `monitor` type and bound it; the keeper's buffers are of fixed size |
//! | other users | sockets, records | directories 0700, sockets 0600, no abstract sockets |
//! | crashes | half-made and orphaned containers | [`reconcile`] |
//! | pids that are used again | a signal for a stranger | a process is its pid, start time and boot |

pub mod accelerator;
pub mod attach;
pub mod capability;
pub mod check;
mod claim;
pub mod create;
pub mod doctor;
pub mod ending;
pub mod environment;
pub mod error;
pub mod etc_files;
pub mod events;
pub mod exec;
pub mod file_daemon;
pub mod files;
pub mod home;
mod host_limits;
pub mod inspect;
pub mod keeper;
pub mod life;
pub mod list;
pub mod logs;
pub mod mounts;
pub mod names;
pub mod plan;
pub mod process;
pub mod prune;
pub mod quantity;
pub mod rates;
mod reach;
pub mod reconcile;
pub mod remove;
pub mod rename;
pub mod request;
pub mod rlimit;
pub mod run;
pub mod seccomp;
pub mod settings;
pub mod signals;
pub mod space;
pub mod start;
pub mod stats;
pub mod stop;
pub mod task;
pub mod timings;
pub mod top;
pub mod update;
pub mod volumes;
pub mod wait;

use std::{fmt, sync::Arc};

pub use crate::{
    create::{CreateOptions, Created},
    ending::{Ending, Reason},
    error::Error,
    events::{EventStream, EventsOptions},
    exec::{Exec, ExecOptions, ExecRequest},
    home::{Environment, Home},
    list::ContainerFilters,
    logs::{LogStream, LogsOptions},
    prune::ContainerPruneFilters,
    remove::RemoveOptions,
    request::{AcceleratorChoice, RunRequest},
    run::{Run, RunEvent, RunOptions},
    settings::{Installation, Settings},
    start::{StartOptions, StartOutcome},
    stats::Stats,
    top::Top,
    update::UpdateRequest,
    wait::WaitCondition,
};
pub use image;
pub use protocol::{TerminalSize, VERSION as GUEST_PROTOCOL_VERSION};
pub use registry;
pub use state::{ContainerRecord, ContainerState, ImageRecord, StateError};

/// The engine over one home.
pub struct Engine {
    home: Home,
    installation: Installation,
    images: image::Images,
    registries: registry::Settings,
    state: Arc<state::State>,
    /// What was put right when it was opened.
    repairs: Vec<reconcile::Repair>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("home", &self.home).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens a home, making it if it is not there, and brings its records up to date. The settings say how images
    /// are handled and registries reached; where things are is known already.
    ///
    /// # Errors
    ///
    /// [`Error::Home`], [`Error::Image`], [`Error::State`].
    pub fn open(home: Home, installation: Installation, settings: &Settings) -> Result<Self, Error> {
        for directory in [&home.data, &home.run] {
            home::make_private(directory).map_err(|source| Error::home("make", directory, source))?;
        }
        let store = store::Store::open(&home.data).map_err(image::ImageError::from)?;
        let state = Arc::new(state::State::open(&home.database())?);
        let images = image::Images::new(store, Arc::clone(&state)).with_options(settings.image_options());
        let repairs = reconcile::reconcile(&state, &home)?;
        Ok(Self { home, installation, images, registries: settings.registries.clone(), state, repairs })
    }

    /// A client of registries with the settings' ways to reach them and the user's own credentials. It touches no
    /// network before it is used.
    ///
    /// # Errors
    ///
    /// [`Error::Registry`] for settings that cannot be used.
    pub fn registry_client(&self) -> Result<registry::Client, Error> {
        Ok(registry::Client::new(self.registries.clone(), registry::Credentials::from_environment())?)
    }

    /// Its home.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Its parts.
    #[must_use]
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Its images.
    #[must_use]
    pub fn images(&self) -> &image::Images {
        &self.images
    }

    pub(crate) fn state(&self) -> &state::State {
        &self.state
    }
}
