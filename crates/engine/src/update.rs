//! Changing a container that is there.

use protocol::Limits;

use crate::{
    Engine,
    create::{self, Spec},
    error::Error,
    keeper::wire::Update,
    plan::{self, Host, PlanError, Resolved},
    request::{RestartPolicy, RunRequest},
};

/// What changes. What is missing stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UpdateRequest {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Thousandths of a CPU.
    pub cpu_milli: Option<u32>,
    /// Most processes; 0 is no limit.
    pub pids_limit: Option<u64>,
    /// When it is started again.
    pub restart: Option<RestartPolicy>,
}

impl Engine {
    /// Changes a container: at once what can be changed in a machine that runs, the rest from its next start on. Returns
    /// what applies later, and why, a line each.
    ///
    /// # Errors
    ///
    /// [`Error::Plan`] for what cannot be had, [`Error::UpdateAutoRemove`], [`Error::Refused`], [`Error::Keeper`].
    pub fn update(&self, name: &str, update: &UpdateRequest) -> Result<Vec<String>, Error> {
        let record = self.container(name)?;
        let restarts = update.restart.is_some_and(|policy| policy != RestartPolicy::No);
        if record.auto_remove && restarts {
            return Err(Error::UpdateAutoRemove(record.name));
        }
        let old = Spec::of(&record)?;
        let mut new = changed(&old, update, &create::host()?)?;
        let mut notes = Vec::new();
        if record.state.is_live()
            && let Some(connection) = self.reach(&record.id)?
        {
            let made = old.launched.unwrap_or((old.resolved.vcpus, old.resolved.memory_mib));
            new.launched = Some(made).filter(|made| *made != (new.resolved.vcpus, new.resolved.memory_mib));
            let limits = live_limits(&new.request, update, made, &mut notes);
            connection.update(Update { limits, restart: update.restart })?;
        }
        let value = create::spec_value(&new)?;
        let record = self.state().update_container(&record.id, |record| record.spec = value)?;
        self.say(&record, "update", &[])?;
        Ok(notes)
    }
}

fn changed(old: &Spec, update: &UpdateRequest, host: &Host) -> Result<Spec, PlanError> {
    let mut request = old.request.clone();
    request.memory = update.memory.or(request.memory);
    request.cpu_milli = update.cpu_milli.or(request.cpu_milli);
    request.restart = update.restart.unwrap_or(request.restart);
    if let Some(limit) = update.pids_limit {
        request.pids_limit = Some(limit).filter(|limit| *limit > 0);
    }
    let (vcpus, memory_mib) = plan::machine_size(&request, host)?;
    let resolved = Resolved { vcpus, memory_mib, ..old.resolved.clone() };
    Ok(Spec { request, resolved, accelerator: old.accelerator, launched: None })
}

/// What a machine of that size can do about it at once.
fn live_limits(
    request: &RunRequest,
    update: &UpdateRequest,
    (vcpus, memory_mib): (u8, u32),
    notes: &mut Vec<String>,
) -> Option<Limits> {
    if (update.memory, update.cpu_milli, update.pids_limit) == (None, None, None) {
        return None;
    }
    let machine_memory = u64::from(memory_mib) << 20;
    let memory = update.memory.map(|asked| {
        if asked > machine_memory {
            notes.push(format!("memory: its machine has {memory_mib} MiB; more of it applies at the next start"));
        } else if asked >> 20 < u64::from(memory_mib) {
            notes.push("memory: the limit holds now; the machine itself is smaller from the next start on".to_owned());
        }
        let size = asked.min(machine_memory);
        size - plan::guest_reserve(size)
    });
    let cpu_milli = update.cpu_milli.map(|asked| {
        let has = u32::from(vcpus) * 1000;
        if asked > has {
            notes.push(format!("cpus: its machine has {vcpus}; more of them apply at the next start"));
        }
        asked.min(has)
    });
    // The largest number lifts a limit.
    let pids = update.pids_limit.map(|_| request.pids_limit.unwrap_or(u64::MAX));
    Some(Limits { memory, cpu_milli, pids })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_live_machine_can_do() {
        let mut notes = Vec::new();
        let update = UpdateRequest { memory: Some(512 << 20), cpu_milli: Some(500), ..UpdateRequest::default() };
        let request = RunRequest::default();
        let limits = live_limits(&request, &update, (1, 1024), &mut notes).unwrap();
        assert_eq!(limits.memory, Some((512 << 20) - plan::guest_reserve(512 << 20)));
        assert_eq!((limits.cpu_milli, limits.pids, notes.len()), (Some(500), None, 1));

        notes.clear();
        let update = UpdateRequest { memory: Some(2 << 30), cpu_milli: Some(4000), pids_limit: Some(0), restart: None };
        let limits = live_limits(&request, &update, (2, 1024), &mut notes).unwrap();
        assert_eq!(limits.memory, Some((1 << 30) - plan::guest_reserve(1 << 30)));
        assert_eq!((limits.cpu_milli, limits.pids, notes.len()), (Some(2000), Some(u64::MAX), 2));

        let only = UpdateRequest { restart: Some(RestartPolicy::Always), ..UpdateRequest::default() };
        assert_eq!(live_limits(&request, &only, (1, 64), &mut notes), None);
    }
}
