//! What a container has written.

use logs::{Options, Reader};
pub use logs::{Record, Stream};

use crate::{Engine, create::Spec, error::Error};

/// What is wanted of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogsOptions {
    /// Go on until the container has ended.
    pub follow: bool,
    /// The last so many records only.
    pub tail: Option<u64>,
    /// Not before this, in ns since 1970.
    pub since: Option<i64>,
    /// Not after this, in ns since 1970.
    pub until: Option<i64>,
}

/// The records of a log, oldest first.
#[derive(Debug)]
pub struct LogStream<'a> {
    engine: &'a Engine,
    id: String,
    reader: Reader,
    follow: bool,
    /// Checked so many times that it lives since the keeper itself was looked at.
    looks: u32,
}

/// So many times, of 20 a second at most, is the record believed before the keeper is looked at.
const BELIEVED: u32 = 20;

impl Engine {
    /// Reads a container's log.
    ///
    /// # Errors
    ///
    /// [`Error::NoLog`] where it keeps none, [`Error::State`], [`Error::Home`].
    pub fn logs(&self, name: &str, options: &LogsOptions) -> Result<LogStream<'_>, Error> {
        let record = self.container(name)?;
        if Spec::of(&record).is_ok_and(|spec| !spec.resolved.log.enabled) {
            return Err(Error::NoLog(record.name));
        }
        let directory = self.home().log(&record.id);
        let LogsOptions { follow, tail, since, until } = *options;
        let reader = Reader::open(&directory, &Options { tail, since, until })
            .map_err(|source| Error::home("read", &directory, source))?;
        Ok(LogStream { engine: self, id: record.id, reader, follow, looks: 0 })
    }
}

impl LogStream<'_> {
    /// Whether nothing more will be written. A container that was removed has ended, too.
    fn has_ended(engine: &Engine, id: &str, looks: &mut u32) -> bool {
        *looks += 1;
        if looks.is_multiple_of(BELIEVED) && engine.look_after(id).is_err() {
            return true;
        }
        engine.container(id).map_or(true, |record| record.keeper.is_none())
    }
}

impl Iterator for LogStream<'_> {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { engine, id, reader, follow, looks } = self;
        let read = if *follow { reader.follow(|| Self::has_ended(engine, id, looks)) } else { reader.next() };
        read.map_err(|source| Error::home("read", &self.engine.home().log(&self.id), source)).transpose()
    }
}
