//! Attaching to the process of a container.

use crate::{Engine, error::Error, keeper::wire::AttachedStreams, run::Run};

impl Engine {
    /// Attaches to the streams of a container's process, from now on.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], [`Error::Paused`], [`Error::Refused`], [`Error::Keeper`].
    pub fn attach(&self, name: &str, streams: AttachedStreams) -> Result<Run<'_>, Error> {
        let (record, connection) = self.reach_running(name)?;
        let attachment = connection.attach(streams)?;
        self.say(&record, "attach", &[])?;
        Ok(Run::new(self, record.id, record.name, None, attachment, None))
    }

    /// Whether the process of a container has a terminal, and whether its standard input is open.
    ///
    /// # Errors
    ///
    /// [`Error::State`], [`Error::UnreadableSpec`].
    pub fn terminal_of(&self, name: &str) -> Result<(bool, bool), Error> {
        let spec = crate::create::Spec::of(&self.container(name)?)?;
        Ok((spec.request.tty, spec.request.interactive))
    }
}
