//! What a container uses, in its machine and of its host.

use state::ContainerRecord;

use crate::{Engine, create::Spec, error::Error, keeper::wire::Usage};

/// What a container uses, now. One that does not run uses nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it runs, or is paused.
    pub live: bool,
    /// vCPUs of its machine.
    pub vcpus: u8,
    /// Bytes of memory that it may use: its limit, or what its machine has.
    pub memory_limit: u64,
    /// Its limit of processes.
    pub pids_limit: Option<u64>,
    /// What it uses.
    pub usage: Usage,
}

impl Engine {
    /// Asks what a container uses. CPU shares are for the caller to take from two answers.
    ///
    /// # Errors
    ///
    /// [`Error::State`], [`Error::Keeper`].
    pub fn stats(&self, name: &str) -> Result<Stats, Error> {
        let record = self.container(name)?;
        let connection = if record.state.is_live() { self.reach(&record.id)? } else { None };
        let usage = connection.map(|mut connection| connection.usage()).transpose()?;
        Ok(stats(&record, usage))
    }
}

fn stats(record: &ContainerRecord, usage: Option<Usage>) -> Stats {
    let spec = Spec::of(record).ok();
    let (live, usage) = (usage.is_some(), usage.unwrap_or_default());
    let machine_memory = spec.as_ref().map_or(0, |spec| u64::from(spec.resolved.memory_mib) << 20);
    Stats {
        id: record.id.clone(),
        name: record.name.clone(),
        live,
        vcpus: spec.as_ref().map_or(0, |spec| spec.resolved.vcpus),
        memory_limit: usage.guest.map_or(machine_memory, |guest| guest.memory_limit),
        pids_limit: spec.as_ref().and_then(|spec| spec.request.pids_limit),
        usage,
    }
}
