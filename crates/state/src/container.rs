//! Containers as plain data, and the life of one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a container is in its life.
///
/// ```text
///                         machine boots,
///   insert                process runs             it ends
///     │     ┌─────────┐                ┌─────────┐            ┌────────┐
///     └────▶│ Created │───────────────▶│ Running │───────────▶│ Exited │
///           └────┬────┘                └─────────┘            └─┬─┬──┬─┘
///                │ │     it never came to run    ▲              │ │  ▲
///                │ └─────────────────────────────┼──────────────┼─┼──┘
///                │                               └──── start ───┘ │
///                ▼ remove                                         ▼ remove
/// ```
///
/// A record may change without changing its state. `Running` has a keeper and a start time; `Exited` has an exit
/// code and a finish time. A running container is not removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// It has a record and a scratch disk. Its machine may be booting, if it has a keeper.
    Created,
    /// Its process runs, or did when its keeper was last heard of.
    Running,
    /// Its process has ended, or could not be started.
    Exited,
}

impl ContainerState {
    /// Whether the arrow is in the diagram.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        use ContainerState::{Created, Exited, Running};
        match (self, next) {
            (Created, _) | (Running, Running | Exited) | (Exited, Running | Exited) => true,
            (Running | Exited, Created) => false,
        }
    }

    /// The state as records and Docker's users spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
        }
    }
}

impl fmt::Display for ContainerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which process it was: a pid alone is given to others again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/<pid>/stat` (proc_pid_stat(5)).
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id` of that boot.
    pub boot_id: String,
}

/// What is known of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique among containers.
    pub name: String,
    /// Id of its image.
    pub image_id: String,
    /// The image's name as the user gave it.
    pub image_ref: String,
    /// In ns since 1970.
    pub created_at: i64,
    /// When its process last started, in ns since 1970.
    pub started_at: Option<i64>,
    /// When its process last ended, in ns since 1970.
    pub finished_at: Option<i64>,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Whether it is removed when it has ended.
    pub auto_remove: bool,
    /// Its keeper, while there is one.
    pub keeper: Option<ProcessRef>,
    /// Its machine process, while there is one.
    pub machine: Option<ProcessRef>,
    /// How its process ended last, as a shell would see it.
    pub exit_code: Option<i32>,
    /// The typed reason of its end, in snake_case.
    pub reason: Option<String>,
    /// What went wrong, in words.
    pub error: Option<String>,
    /// The last lines of the guest kernel, where they say something about the end.
    pub kernel_log_tail: Option<String>,
    /// How long what took.
    pub timings: Option<serde_json::Value>,
    /// What it was asked to be; the engine's.
    pub spec: serde_json::Value,
}

impl ContainerRecord {
    /// A new container: created now, nothing has happened yet.
    #[must_use]
    pub fn new(id: String, name: String, image_id: String, image_ref: String, created_at: i64) -> Self {
        Self {
            id,
            name,
            image_id,
            image_ref,
            created_at,
            started_at: None,
            finished_at: None,
            state: ContainerState::Created,
            auto_remove: false,
            keeper: None,
            machine: None,
            exit_code: None,
            reason: None,
            error: None,
            kernel_log_tail: None,
            timings: None,
            spec: serde_json::Value::Null,
        }
    }

    /// The first thing that its state needs and it lacks.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let needs: &[(&'static str, bool)] = match self.state {
            ContainerState::Created => &[],
            ContainerState::Running => {
                &[("a keeper", self.keeper.is_some()), ("a start time", self.started_at.is_some())]
            }
            ContainerState::Exited => {
                &[("an exit code", self.exit_code.is_some()), ("a finish time", self.finished_at.is_some())]
            }
        };
        needs.iter().find(|(_, present)| !present).map(|(name, _)| *name)
    }
}
