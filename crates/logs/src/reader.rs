//! Reading: from the beginning or the last lines on, to the end or for ever.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
};

use crate::{MAX_ENCODED, file, numbers, record::Record, writer};

/// Bytes that are read at once.
const BLOCK: usize = 64 << 10;

/// How long a follower sleeps at most before it asks whether there will be more.
const PATIENCE: Duration = Duration::from_millis(50);

/// Which records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// The last so many records only.
    pub tail: Option<u64>,
    /// Not before this, in ns since 1970.
    pub since: Option<i64>,
    /// Not after this, in ns since 1970.
    pub until: Option<i64>,
}

/// Reads the log of a container.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    options: Options,
    /// The file that is read; `None` before the first one is there.
    current: Option<(u64, File)>,
    /// Bytes that were read and not used.
    bytes: VecDeque<u8>,
    /// How many of them hold no newline.
    searched: usize,
    /// Within a line that is too long for a record.
    skipping: bool,
    changes: Option<OwnedFd>,
}

impl Reader {
    /// A reader of a container's log. One that is not there yet is empty.
    ///
    /// # Errors
    ///
    /// If the directory or a file cannot be read.
    pub fn open(directory: &Path, options: &Options) -> io::Result<Self> {
        let mut reader = Self {
            directory: directory.to_owned(),
            options: *options,
            current: None,
            bytes: VecDeque::new(),
            searched: 0,
            skipping: false,
            changes: None,
        };
        if let Some(tail) = options.tail {
            reader.seek_to_tail(tail)?;
        }
        Ok(reader)
    }

    /// The next record; `None` when there is none at the moment.
    ///
    /// # Errors
    ///
    /// If a file cannot be read.
    #[expect(clippy::should_implement_trait, reason = "no iterator: there may be more after there was none")]
    pub fn next(&mut self) -> io::Result<Option<Record>> {
        loop {
            while let Some(line) = self.take_line() {
                if let Some(record) = Record::parse(&line).filter(|record| self.is_wanted(record)) {
                    return Ok(Some(record));
                }
            }
            if !self.fill()? && !self.open_next()? {
                return Ok(None);
            }
        }
    }

    /// The next record, waiting for it until `ended` says that no more will be written. `None`: there are no more, or
    /// the time is past [`Options::until`].
    ///
    /// # Errors
    ///
    /// If a file cannot be read.
    pub fn follow(&mut self, mut ended: impl FnMut() -> bool) -> io::Result<Option<Record>> {
        self.watch();
        loop {
            // Asked first: what was written before the end is read after it.
            let last = ended() || self.options.until.is_some_and(|until| writer::now() > until);
            if let Some(record) = self.next()? {
                return Ok(Some(record));
            }
            if last {
                return Ok(None);
            }
            self.sleep();
        }
    }

    fn is_wanted(&self, record: &Record) -> bool {
        self.options.since.is_none_or(|since| record.time >= since)
            && self.options.until.is_none_or(|until| record.time <= until)
    }

    /// Takes a whole line from the buffer.
    fn take_line(&mut self) -> Option<Vec<u8>> {
        loop {
            let found = self.bytes.range(self.searched..).position(|&byte| byte == b'\n');
            let Some(at) = found else {
                self.searched = self.bytes.len();
                if self.searched > MAX_ENCODED {
                    self.bytes.clear();
                    (self.searched, self.skipping) = (0, true);
                }
                return None;
            };
            let line: Vec<u8> = self.bytes.drain(..=self.searched + at).collect();
            self.searched = 0;
            if !std::mem::take(&mut self.skipping) {
                return Some(line);
            }
        }
    }

    /// Reads once. `false`: the file has no more.
    fn fill(&mut self) -> io::Result<bool> {
        let Some((_, file)) = &mut self.current else { return Ok(false) };
        let mut block = [0; BLOCK];
        let count = loop {
            match file.read(&mut block) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.bytes.extend(&block[..count]);
        Ok(count > 0)
    }

    /// Goes on to the next file, if there is one.
    fn open_next(&mut self) -> io::Result<bool> {
        let after = self.current.as_ref().map_or(0, |(number, _)| *number);
        for number in numbers(&self.directory)?.into_iter().filter(|number| *number > after) {
            // What was written before the next file was begun is there by now.
            if self.fill()? {
                return Ok(true);
            }
            match File::open(file(&self.directory, number)) {
                Ok(file) => {
                    self.begin(number, file);
                    return Ok(true);
                }
                // Removed meanwhile: the reader was too slow for the limits.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn begin(&mut self, number: u64, file: File) {
        self.current = Some((number, file));
        self.bytes.clear();
        (self.searched, self.skipping) = (0, false);
    }

    /// Begins before the last `tail` records.
    fn seek_to_tail(&mut self, tail: u64) -> io::Result<()> {
        let mut left = tail;
        for number in numbers(&self.directory)?.into_iter().rev() {
            let mut file = match File::open(file(&self.directory, number)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            let (start, found) = last_lines(&file, left)?;
            io::Seek::seek(&mut file, io::SeekFrom::Start(start))?;
            self.begin(number, file);
            left -= found;
            if left == 0 {
                break;
            }
        }
        Ok(())
    }

    fn watch(&mut self) {
        if self.changes.is_some() {
            return;
        }
        let watch = || {
            let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
            inotify::add_watch(&changes, &self.directory, flags)?;
            Ok::<_, rustix::io::Errno>(changes)
        };
        // Without one, or without a directory yet, the follower looks every now and then.
        self.changes = watch().ok();
    }

    fn sleep(&mut self) {
        self.watch();
        let Some(changes) = &self.changes else { return std::thread::sleep(PATIENCE) };
        let timeout = Timespec::try_from(PATIENCE).ok();
        let _ = poll(&mut [PollFd::new(changes, PollFlags::IN)], timeout.as_ref());
        // What changed does not matter.
        while rustix::io::read(changes, &mut [0; 4096]).is_ok_and(|count| count > 0) {}
    }
}

/// Where the last `wanted` lines that look like records begin, and how many there are.
///
/// What a crash tore does not count: a record's line begins and ends with a brace.
fn last_lines(file: &File, wanted: u64) -> io::Result<(u64, u64)> {
    let mut end = file.metadata()?.len();
    if wanted == 0 {
        return Ok((end, 0));
    }
    let mut found = 0;
    // Of the line that is looked at: whether its end was seen, and whether that is a record's.
    let (mut newline_seen, mut ends_well) = (false, false);
    let (mut before_newline, mut following) = (false, 0);
    let mut block = vec![0; BLOCK];
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let part = &mut block[..usize::try_from(end - start).unwrap_or(BLOCK)];
        file.read_exact_at(part, start)?;
        for (index, &byte) in part.iter().enumerate().rev() {
            if before_newline {
                (ends_well, before_newline) = (byte == b'}', false);
            }
            if byte == b'\n' {
                if newline_seen && ends_well && following == b'{' {
                    found += 1;
                    if found == wanted {
                        return Ok((start + index as u64 + 1, found));
                    }
                }
                (newline_seen, before_newline, ends_well) = (true, true, false);
            }
            following = byte;
        }
        end = start;
    }
    if newline_seen && ends_well && following == b'{' {
        found += 1;
    }
    Ok((0, found))
}

#[cfg(test)]
mod tests;
