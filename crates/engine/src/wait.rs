//! Waiting for what becomes of a container.

use std::time::Duration;

use state::{ContainerState, Event, EventKind, EventQuery, StateError};

use crate::{Engine, ending::UNSEEN, error::Error, reconcile};

/// What is waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// It does not run; not for anything where it does not.
    #[default]
    NotRunning,
    /// Its process ends the next time.
    NextExit,
    /// It is removed.
    Removed,
}

/// How often the life of the keeper is looked after.
const LIFE_SIGNS: Duration = Duration::from_secs(1);

impl Engine {
    /// Waits, and returns the exit code: of the end that was waited for, or of the last one.
    ///
    /// # Errors
    ///
    /// [`Error::State`].
    pub fn wait(&self, name: &str, condition: WaitCondition) -> Result<i64, Error> {
        // What happens from here on is seen, whether or not the record is there to tell.
        let mut query = EventQuery { after: self.state().last_event()?, ..EventQuery::default() };
        let record = self.container(name)?;
        let mut code = i64::from(record.exit_code.unwrap_or(0));
        let is_over = record.state == ContainerState::Exited || record.keeper.is_none();
        if condition == WaitCondition::NotRunning && is_over {
            return Ok(code);
        }
        loop {
            let events = self.state().wait_for_events(&query, LIFE_SIGNS)?;
            for event in events {
                query.after = event.seq;
                if event.kind != EventKind::Container || event.id != record.id {
                    continue;
                }
                code = exit_code(&event).unwrap_or(code);
                if is_met(condition, &event) {
                    return Ok(code);
                }
            }
            self.look_after(&record.id)?;
            // Not every way to rest is a death: one that waited for its restart had died before.
            if condition == WaitCondition::NotRunning
                && let Ok(now) = self.container(&record.id)
                && now.keeper.is_none()
            {
                return Ok(i64::from(now.exit_code.unwrap_or(0)));
            }
        }
    }

    /// Finds out whether a container has lost its keeper, and says so in its record.
    pub(crate) fn look_after(&self, id: &str) -> Result<(), Error> {
        match self.state().container(id) {
            Ok(record) if record.keeper.is_some() && !self.is_kept(&record)? => {
                reconcile::reconcile(self.state(), self.home()).map(drop)
            }
            Ok(_) | Err(StateError::NoSuchContainer { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn exit_code(event: &Event) -> Option<i64> {
    let code = || event.attributes.get("exitCode").and_then(|code| code.parse().ok());
    (event.action == "die").then(|| code().unwrap_or(i64::from(UNSEEN)))
}

fn is_met(condition: WaitCondition, event: &Event) -> bool {
    match condition {
        WaitCondition::NotRunning | WaitCondition::NextExit => matches!(event.action.as_str(), "die" | "destroy"),
        WaitCondition::Removed => event.action == "destroy",
    }
}
