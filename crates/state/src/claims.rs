//! Claims: how a command gets a container to itself.
//!
//! A claim is the claiming process in the field `keeper` and its purpose in the field `claim`, written in the
//! transaction that finds nobody there. So of any number of commands that want the same container at once one gets it,
//! and the others learn which process was faster and what for. A claim ends when its process gives it back
//! ([`State::release`]), when the container goes, or when the keeper takes over a claim to start; a claim whose process
//! is gone is found by the next command.

use rusqlite::params;

use crate::containers::{by_id, update};
use crate::{Claim, ContainerRecord, Durability, ProcessRef, Result, State, StateError};

impl State {
    /// Gets a container that does not live for the process `holder` alone. Returns the record as it is now.
    ///
    /// # Errors
    ///
    /// [`StateError::Claimed`] where another process has it, be it a dead one; [`StateError::ContainerRunning`] where it
    /// lives; [`StateError::NoSuchContainer`].
    pub fn claim(&self, id: &str, claim: Claim, holder: &ProcessRef) -> Result<ContainerRecord> {
        self.write(Durability::System, |transaction| {
            let before = by_id(transaction, id)?;
            let before = before.ok_or_else(|| StateError::NoSuchContainer { name: id.to_owned() })?;
            check_free(&before)?;
            let after = ContainerRecord { keeper: Some(holder.clone()), claim: Some(claim), ..before };
            update(transaction, &after)?;
            Ok(after)
        })
    }

    /// Gives a claim back. One that `holder` no longer has, or that has become a keeper's life, stays as it is.
    ///
    /// # Errors
    ///
    /// Where it cannot be written.
    pub fn release(&self, id: &str, holder: &ProcessRef) -> Result<()> {
        self.write(Durability::System, |transaction| {
            let Some(before) = by_id(transaction, id)? else { return Ok(()) };
            if before.keeper.as_ref() == Some(holder) && before.claim.is_some() {
                update(transaction, &ContainerRecord { keeper: None, claim: None, ..before })?;
            }
            Ok(())
        })
    }

    /// Removes the record of a container that `holder` has claimed.
    ///
    /// # Errors
    ///
    /// [`StateError::Claimed`] where another process has it, [`StateError::ContainerRunning`],
    /// [`StateError::NoSuchContainer`].
    pub fn remove_claimed(&self, id: &str, holder: &ProcessRef) -> Result<ContainerRecord> {
        self.remove(Durability::System, |transaction| {
            let record = by_id(transaction, id)?;
            let record = record.ok_or_else(|| StateError::NoSuchContainer { name: id.to_owned() })?;
            if record.keeper.as_ref() != Some(holder) || record.claim.is_none() {
                check_free(&record)?;
            }
            crate::events::of_container(transaction, &record, "destroy", &[])?;
            transaction.execute("DELETE FROM containers WHERE id = ?1", params![id])?;
            Ok(record)
        })
    }
}

/// Whether nobody has the container.
fn check_free(record: &ContainerRecord) -> Result<()> {
    let (id, name) = (record.id.clone(), record.name.clone());
    if record.state.is_live() {
        return Err(StateError::ContainerRunning { id, name, state: record.state });
    }
    match &record.keeper {
        // A keeper whose machine boots.
        Some(holder) => {
            Err(StateError::Claimed { id, name, claim: record.claim.unwrap_or(Claim::Start), pid: holder.pid })
        }
        None => Ok(()),
    }
}
