//! Containers as plain data, and the life of one.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// Where a container is in its life.
///
/// ```text
///                        machine boots,
///   insert               process runs                  it ends, and a restart is due
///     │     ┌─────────┐               ┌─────────┐ ────────────────────────▶ ┌────────────┐
///     └────▶│ Created │──────────────▶│ Running │ ◀──── process runs ────── │ Restarting │
///           └────┬────┘               └─┬─┬──▲──┘                           └──▲───┬─────┘
///                │                      │ │  │ unpause                         │   │
///                │                      │ │  │          ┌────────┐  it ends,   │   │
///                │            pause     │ │  └──────────│ Paused │─────────────┘   │ stop, kill,
///                │                      │ └────────────▶└───┬────┘  a restart is   │ given up
///                │                      │ it ends           │ it ends     due      │
///                │ it never came to run ▼                   ▼                      ▼
///                └──────────────────▶┌─────────────────────────────────────────────────┐
///                                    │ Exited      start: the process runs ──▶ Running │
///                                    └─────────────────────────────────────────────────┘
/// ```
///
/// A record may change without changing its state. `Running`, `Paused` and `Restarting` are the states of the living:
/// they have a keeper and a start time, and such a container is not removed. `Exited` and `Restarting` have an exit
/// code and a finish time. Arrows and fields are held by the database itself (constraints and triggers), whoever
/// writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// It has a record and a scratch disk. Its machine may be booting, if it has a keeper.
    Created,
    /// Its process runs, or did when its keeper was last heard of.
    Running,
    /// Its machine stands still.
    Paused,
    /// Its process has ended, and its keeper waits to start it again, or does so.
    Restarting,
    /// Its process has ended, or could not be started.
    Exited,
}

impl ContainerState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Created, Self::Running, Self::Paused, Self::Restarting, Self::Exited];

    /// Whether the arrow is in the diagram.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        use ContainerState::{Created, Exited, Paused, Restarting, Running};
        match (self, next) {
            (Running | Paused, Running | Paused | Restarting | Exited)
            | (Restarting, Running | Restarting | Exited)
            | (Created, Created | Running | Exited)
            | (Exited, Running | Exited) => true,
            (Created | Exited, Paused | Restarting) | (Restarting, Paused) | (_, Created) => false,
        }
    }

    /// Whether a keeper keeps it alive: it runs, stands still, or is about to run again.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }

    /// The state as records and Docker's users spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
        }
    }
}

impl fmt::Display for ContainerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a process has a container to itself for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// It makes it.
    Create,
    /// It starts it. Only this claim is handed on: to the keeper.
    Start,
    /// It removes it, or will when it has ended.
    Remove,
    /// It reads or writes its disk.
    Files,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "being made",
            Self::Start => "being started",
            Self::Remove => "being removed",
            Self::Files => "having its files read or written",
        })
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
    /// The process that is responsible for it, while there is one: its keeper, or a command that has claimed it.
    pub keeper: Option<ProcessRef>,
    /// What that process has claimed it for; `None` where it is a keeper.
    #[serde(default)]
    pub claim: Option<Claim>,
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
    /// Its labels, those of its image included. Its events carry them.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How often its keeper has started it again since it was started.
    #[serde(default)]
    pub restart_count: u32,
    /// What its health checks found, as Docker's `State.Health`.
    #[serde(default)]
    pub health: Option<serde_json::Value>,
    /// Whether it was stopped on a user's wish.
    #[serde(default)]
    pub stopped_by_user: bool,
    /// Whether the out-of-memory killer struck in it when it last ran.
    #[serde(default)]
    pub oom_killed: bool,
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
            claim: None,
            machine: None,
            exit_code: None,
            reason: None,
            error: None,
            kernel_log_tail: None,
            timings: None,
            spec: serde_json::Value::Null,
            labels: BTreeMap::new(),
            restart_count: 0,
            health: None,
            stopped_by_user: false,
            oom_killed: false,
        }
    }

    /// The first thing that its state needs and it lacks.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let over = matches!(self.state, ContainerState::Restarting | ContainerState::Exited);
        let needs = [
            (self.state.is_live(), "a keeper", self.keeper.is_some()),
            (self.state.is_live(), "a start time", self.started_at.is_some()),
            (over, "an exit code", self.exit_code.is_some()),
            (over, "a finish time", self.finished_at.is_some()),
        ];
        needs.iter().find(|(needed, _, present)| *needed && !present).map(|(_, name, _)| *name)
    }
}
