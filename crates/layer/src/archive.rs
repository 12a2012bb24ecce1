//! A stream of bytes becomes tar members.
//!
//! ```text
//!             ┌──────────── x, g, L, K: read its body ────────────┐
//!             ▼                                                   │
//!  start ─▶ header ── any other type ─▶ Member ─ content read or skipped ─▶ header
//!             │
//!             └── two zero blocks, or the end of the input ─▶ end: the rest is read and means nothing
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use crate::changeset::Timestamp;
use crate::error::{EntryFault, HeaderFault, HeaderPlace, LayerError};
use crate::limits::Limits;
use crate::path::EntryName;
use crate::pax::Records;
use crate::sparse::{MapLines, PaxSparse, SparseMap};
use crate::tape::{Stop, Tape};
use crate::tar_format::{self, BLOCK, Header};

/// One member: its header, with all headers before it that describe it taken into account.
#[derive(Debug)]
pub(crate) struct Member {
    /// As the archive has it.
    pub(crate) name: Vec<u8>,
    pub(crate) link_name: Vec<u8>,
    /// Old and rare flags are replaced by those that mean the same.
    pub(crate) type_flag: u8,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) device: (i64, i64),
    /// The parts of the file that are stored; for an ordinary file one, for other types none.
    pub(crate) content: SparseMap,
}

impl Member {
    pub(crate) fn fault(&self, fault: impl Into<EntryFault>) -> LayerError {
        entry_fault(&self.name, fault.into())
    }
}

fn entry_fault(name: &[u8], fault: EntryFault) -> LayerError {
    LayerError::Entry { entry: name.into(), fault }
}

/// Headers that describe the member after them.
#[derive(Debug, Default)]
struct Description {
    pax: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link_name: Option<Vec<u8>>,
}

/// A tar archive being read.
#[derive(Debug)]
pub(crate) struct Archive<'l, R, S> {
    tape: Tape<R, S>,
    limits: &'l Limits,
    globals: Records,
    /// Name of the member whose content is next.
    current: Vec<u8>,
    /// Whether there was any member.
    entered: bool,
    /// Stored bytes of the current member that are still unread, and the padding after them.
    left: u64,
    padding: u64,
    /// Bytes so far that mean nothing.
    ignored: u64,
}

impl<'l, R: Read, S: Write> Archive<'l, R, S> {
    /// Reads `input`; what is not content goes to `skeleton`.
    pub(crate) fn new(input: R, skeleton: S, limits: &'l Limits) -> Self {
        Self {
            tape: Tape::new(input, skeleton),
            limits,
            globals: Records::default(),
            current: Vec::new(),
            entered: false,
            left: 0,
            padding: 0,
            ignored: 0,
        }
    }

    /// The next member, after what is unread of the last one.
    pub(crate) fn next_member(&mut self) -> Result<Option<Member>, LayerError> {
        self.skip_content()?;
        let mut description = Description::default();
        loop {
            let position = self.tape.position();
            let Some(block) = self.header_block()? else {
                let dangling = description.pax.is_some() || description.long_name.is_some();
                return if dangling || description.long_link_name.is_some() {
                    Err(self.header_fault(position, HeaderFault::Dangling))
                } else {
                    Ok(None)
                };
            };
            let header = Header::new(&block).ok_or_else(|| self.header_fault(position, HeaderFault::Checksum))?;
            match header.type_flag() {
                b'x' => {
                    let records = Records::parse(&self.description_body(&header, "PAX")?)
                        .map_err(|fault| self.header_fault(position, fault))?;
                    fill(&mut description.pax, records, "PAX").map_err(|fault| self.header_fault(position, fault))?;
                }
                b'g' => {
                    let body = self.description_body(&header, "global PAX")?;
                    self.globals.update_global(
                        Records::parse_global(&body).map_err(|fault| self.header_fault(position, fault))?,
                    );
                }
                b'L' => {
                    let body = self.description_body(&header, "GNU long name")?;
                    let name = tar_format::text(&body).to_vec();
                    fill(&mut description.long_name, name, "GNU long name")
                        .map_err(|fault| self.header_fault(position, fault))?;
                }
                b'K' => {
                    let body = self.description_body(&header, "GNU long link")?;
                    let name = tar_format::text(&body).to_vec();
                    fill(&mut description.long_link_name, name, "GNU long link")
                        .map_err(|fault| self.header_fault(position, fault))?;
                }
                _ => return self.member(&header, description).map(Some),
            }
        }
    }

    /// A block that is not the end of the archive.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        match self.block()? {
            Some(next) if next != [0; BLOCK] => {
                let position = self.tape.position() - 2 * BLOCK as u64;
                Err(self.header_fault(position, HeaderFault::LoneZeroBlock))
            }
            _ => Ok(None),
        }
    }

    /// One block, or `None` at the end of the input.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let mut block = [0; BLOCK];
        let start = self.tape.position();
        match self.tape.fill(&mut block) {
            Ok(()) => Ok(Some(block)),
            Err(Stop::End) if self.tape.position() == start => Ok(None),
            Err(stop) => Err(self.stopped(stop, LayerError::TruncatedHeader { place: self.header_place(start) })),
        }
    }

    fn header_place(&self, position: u64) -> HeaderPlace {
        HeaderPlace { position, after: self.entered.then(|| self.current.as_slice().into()) }
    }

    fn header_fault(&self, position: u64, fault: HeaderFault) -> LayerError {
        LayerError::Header { place: self.header_place(position), fault }
    }

    /// What it means that the tape stands still, where the archive must not end.
    fn stopped(&self, stop: Stop, at_end: LayerError) -> LayerError {
        match stop {
            Stop::End => at_end,
            Stop::Read(source) => LayerError::Read { position: self.tape.position(), source },
            Stop::Skeleton(source) => LayerError::Finish(source),
        }
    }

    /// The body of a header that describes the next member.
    fn description_body(&mut self, header: &Header<'_>, what: &'static str) -> Result<Vec<u8>, LayerError> {
        let position = self.tape.position() - BLOCK as u64;
        let size = header.size().and_then(|size| usize::try_from(size).ok());
        let size = size.ok_or_else(|| self.header_fault(position, HeaderFault::Number("size")))?;
        let limit = self.limits.extended_header_bytes;
        if size as u64 > limit {
            return Err(self.header_fault(position, HeaderFault::TooLarge(what, limit)));
        }
        let mut body = vec![0; size.next_multiple_of(BLOCK)];
        let filled = self.tape.fill(&mut body);
        filled
            .map_err(|stop| self.stopped(stop, LayerError::TruncatedHeader { place: self.header_place(position) }))?;
        body.truncate(size);
        Ok(body)
    }

    fn member(&mut self, header: &Header<'_>, description: Description) -> Result<Member, LayerError> {
        let mut pax = description.pax.unwrap_or_default();
        let name = self.name(header, &mut pax, description.long_name)?;
        let fault = |fault| entry_fault(&name, fault);
        let link_name = agree(pax.link_path.take(), description.long_link_name);
        let link_name = link_name.map_err(|_| fault(EntryFault::Ambiguous("link name")))?;
        let type_flag = type_of(header, &name).map_err(fault)?;
        let stored = stored_size(header, type_flag, pax.size).map_err(fault)?;
        let owner = |own: Option<u64>, global: Option<u64>, field: Option<i64>, what| match own.or(global) {
            Some(id) => id_in_range(id, what),
            None => unsigned(field, what).and_then(|id| id_in_range(id, what)),
        };
        let uid = owner(pax.uid, self.globals.uid, header.uid(), "uid").map_err(fault)?;
        let gid = owner(pax.gid, self.globals.gid, header.gid(), "gid").map_err(fault)?;
        let mode = header.mode().ok_or_else(|| fault(EntryFault::Number("mode")))? & 0o7777;
        let mtime = match pax.mtime.or(self.globals.mtime) {
            Some(time) => time,
            None => {
                Timestamp { seconds: header.mtime().ok_or_else(|| fault(EntryFault::Number("mtime")))?, nanoseconds: 0 }
            }
        };
        let device = match type_flag {
            b'3' | b'4' => header.device().ok_or_else(|| fault(EntryFault::Number("device")))?,
            _ => (0, 0),
        };
        let mut xattrs = self.globals.xattrs.clone();
        xattrs.append(&mut pax.xattrs);

        self.current.clone_from(&name);
        self.entered = true;
        self.left = stored;
        self.padding = stored.wrapping_neg() % BLOCK as u64;
        let content = self.content_map(header, type_flag, &pax)?;
        Ok(Member {
            link_name: link_name.unwrap_or_else(|| header.link_name().to_vec()),
            type_flag: if type_flag == b'S' { b'0' } else { type_flag },
            mode: u16::try_from(mode).map_err(|_| entry_fault(&name, EntryFault::Number("mode")))?,
            name,
            uid,
            gid,
            mtime,
            xattrs,
            device,
            content,
        })
    }

    /// The one name that all headers of a member give.
    fn name(&self, header: &Header<'_>, pax: &mut Records, long_name: Option<Vec<u8>>) -> Result<Vec<u8>, LayerError> {
        let ambiguous = |name: Vec<u8>| entry_fault(&name, EntryFault::Ambiguous("name"));
        let path = agree(pax.sparse.name.take(), pax.path.take()).map_err(ambiguous)?;
        let name = agree(path, long_name).map_err(ambiguous)?;
        let disputed = || entry_fault(header.plain_name(), EntryFault::Disputed("the prefix of the name"));
        name.map_or_else(|| header.name().ok_or_else(disputed), Ok)
    }

    /// Which parts of the file follow; reads the part of the map that lies between header and content.
    fn content_map(&mut self, header: &Header<'_>, type_flag: u8, pax: &Records) -> Result<SparseMap, LayerError> {
        let map = match type_flag {
            b'S' if !pax.sparse.is_empty() => return Err(self.fault(EntryFault::Sparse("two maps"))),
            b'S' => self.gnu_sparse_map(header)?,
            b'0' if !pax.sparse.is_empty() => match PaxSparse::new(&pax.sparse).map_err(|fault| self.fault(fault))? {
                PaxSparse::Header(map) => map,
                PaxSparse::Content(size) => self.sparse_map_lines(size)?,
            },
            _ => SparseMap::new(self.left, &[0, self.left]).map_err(|fault| self.fault(fault))?,
        };
        let extents = map.extents.len() as u64;
        if extents > self.limits.sparse_extents {
            return Err(self.fault(EntryFault::SparseExtents(self.limits.sparse_extents)));
        }
        map.check_stored(self.left).map_err(|fault| self.fault(fault))?;
        Ok(map)
    }

    fn gnu_sparse_map(&mut self, header: &Header<'_>) -> Result<SparseMap, LayerError> {
        let sparse = header.gnu_sparse();
        let (slots, mut more, size) = sparse.ok_or_else(|| self.fault(EntryFault::Sparse("not a number")))?;
        let size = unsigned(Some(size), "size").map_err(|fault| self.fault(fault))?;
        let mut numbers = Vec::new();
        self.take_slots(&mut numbers, slots)?;
        while more {
            let block = self.block()?.ok_or_else(|| self.truncated())?;
            let (slots, another) = tar_format::gnu_sparse_continuation(&block);
            self.take_slots(&mut numbers, slots)?;
            more = another;
        }
        SparseMap::new(size, &numbers).map_err(|fault| self.fault(fault))
    }

    fn take_slots(&self, numbers: &mut Vec<u64>, slots: &[u8]) -> Result<(), LayerError> {
        for slot in tar_format::sparse_slots(slots) {
            let (offset, length) = slot.ok_or_else(|| self.fault(EntryFault::Sparse("not a number")))?;
            let pair = u64::try_from(offset).and_then(|offset| Ok([offset, u64::try_from(length)?]));
            numbers.extend(pair.map_err(|_| self.fault(EntryFault::Sparse("number out of range")))?);
        }
        if numbers.len() as u64 / 2 > self.limits.sparse_extents {
            return Err(self.fault(EntryFault::SparseExtents(self.limits.sparse_extents)));
        }
        Ok(())
    }

    fn sparse_map_lines(&mut self, size: u64) -> Result<SparseMap, LayerError> {
        let mut lines = MapLines::default();
        loop {
            if self.left < BLOCK as u64 {
                return Err(self.fault(EntryFault::Sparse("the map is longer than the content")));
            }
            let block = self.block()?.ok_or_else(|| self.truncated())?;
            self.left -= BLOCK as u64;
            if lines.feed(&block, self.limits.sparse_extents).map_err(|fault| self.fault(fault))? {
                return lines.finish(size).map_err(|fault| self.fault(fault));
            }
        }
    }

    fn fault(&self, fault: EntryFault) -> LayerError {
        entry_fault(&self.current, fault)
    }

    fn truncated(&self) -> LayerError {
        LayerError::TruncatedMember { entry: self.current.as_slice().into() }
    }

    /// Stored content of the current member, as a reader that remembers what went wrong. Its bytes do not go to the
    /// skeleton by themselves.
    pub(crate) fn content(&mut self) -> ContentReader<'_, 'l, R, S> {
        ContentReader { archive: self, stop: None }
    }

    /// Records that the content just read went to `data`, from `offset` on.
    pub(crate) fn record_data(&mut self, offset: u64, content: &SparseMap) -> Result<(), LayerError> {
        let mut extents = content.extents.iter();
        let recorded = extents.try_for_each(|extent| self.tape.skeleton().data(offset + extent.offset, extent.length));
        recorded.map_err(LayerError::Finish)
    }

    /// Records that the content just read, `size` bytes, went to `packed`.
    pub(crate) fn record_packed(&mut self, size: u64) -> Result<(), LayerError> {
        self.tape.skeleton().packed(size).map_err(LayerError::Finish)
    }

    /// Goes over padding, and content that nobody wanted.
    fn skip_content(&mut self) -> Result<(), LayerError> {
        self.ignored = self.ignored.saturating_add(self.left);
        if self.ignored > self.limits.ignored_bytes {
            return Err(self.fault(EntryFault::Ignored(self.limits.ignored_bytes)));
        }
        let length = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        self.tape.pass(length).map_err(|stop| self.stopped(stop, self.truncated()))
    }

    /// Reads what follows the end of the archive, up to the end of the input, and gives back what the skeleton went to.
    pub(crate) fn finish(mut self) -> Result<S, LayerError> {
        loop {
            match self.tape.pass_some(u64::MAX) {
                Ok(passed) if passed.zeros => {}
                Ok(passed) => self.ignored = self.ignored.saturating_add(passed.length),
                Err(Stop::End) => return self.tape.finish().map_err(LayerError::Finish),
                Err(Stop::Read(source)) => return Err(LayerError::Read { position: self.tape.position(), source }),
                Err(Stop::Skeleton(source)) => return Err(LayerError::Finish(source)),
            }
            if self.ignored > self.limits.ignored_bytes {
                return Err(LayerError::Trailing(self.limits.ignored_bytes));
            }
        }
    }
}

/// The stored content of one member.
#[derive(Debug)]
pub(crate) struct ContentReader<'a, 'l, R, S> {
    archive: &'a mut Archive<'l, R, S>,
    stop: Option<Stop>,
}

impl<R: Read, S: Write> ContentReader<'_, '_, R, S> {
    /// What an error means that came up while content was moved: the archive's fault if it failed here, else that of
    /// the place for contents.
    pub(crate) fn explain(self, source: io::Error) -> LayerError {
        match self.stop {
            Some(stop) => self.archive.stopped(stop, self.archive.truncated()),
            None => LayerError::Store { entry: EntryName::from(self.archive.current.as_slice()), source },
        }
    }
}

impl<R: Read, S: Write> Read for ContentReader<'_, '_, R, S> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.archive.left).unwrap_or(usize::MAX).min(target.len());
        if wanted == 0 {
            return Ok(0);
        }
        match self.archive.tape.content(&mut target[..wanted]) {
            Ok(0) => self.stop = Some(Stop::End),
            Ok(read) => {
                self.archive.left -= read as u64;
                return Ok(read);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => self.stop = Some(Stop::Read(error)),
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn fill<T>(slot: &mut Option<T>, value: T, what: &'static str) -> Result<(), HeaderFault> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(HeaderFault::Repeated(what)),
    }
}

/// The one name that PAX and GNU headers give; both, if they contradict each other, is an error.
fn agree(pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Vec<u8>> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => Err(pax),
        (pax, gnu) => Ok(pax.or(gnu)),
    }
}

/// The type, as one of the flags that POSIX has and `S`.
///
/// Before POSIX, a directory was a file whose name ends with a slash. Readers go by the name in the header block or by
/// the one that counts, and some take files of newer types for directories as well.
fn type_of(header: &Header<'_>, name: &[u8]) -> Result<u8, EntryFault> {
    let slash = name.ends_with(b"/");
    match header.type_flag() {
        0 if slash != header.plain_name().ends_with(b"/") => Err(EntryFault::Disputed("its type")),
        0 if slash => Ok(b'5'),
        b'0' | b'7' | b'S' if slash => Err(EntryFault::Disputed("a file whose name ends with a slash")),
        b'S' if !header.is_gnu() => Err(EntryFault::Disputed("its type")),
        0 | b'7' => Ok(b'0'),
        flag => Ok(flag),
    }
}

/// How many bytes of content follow, padding aside. Not all readers go over content of types that have none.
fn stored_size(header: &Header<'_>, type_flag: u8, pax: Option<u64>) -> Result<u64, EntryFault> {
    let own = || unsigned(header.size(), "size");
    let contentless = match type_flag {
        // All readers know by now that some writers give the size of what a hard link or a directory stands for.
        b'1' => pax.unwrap_or(0),
        b'5' if header.type_flag() == b'5' => 0,
        b'2'..=b'6' => pax.map_or_else(own, Ok)?,
        b'S' if pax.is_some() => return Err(EntryFault::Disputed("the size of a sparse file")),
        _ => return pax.map_or_else(own, Ok),
    };
    if contentless == 0 { Ok(0) } else { Err(EntryFault::Disputed("content of what has none")) }
}

fn unsigned(number: Option<i64>, what: &'static str) -> Result<u64, EntryFault> {
    let number = number.ok_or(EntryFault::Number(what))?;
    u64::try_from(number).map_err(|_| EntryFault::Range(what))
}

/// Owners are 32 bits wide, and the highest value means "no owner" to Linux.
fn id_in_range(id: u64, what: &'static str) -> Result<u32, EntryFault> {
    u32::try_from(id).ok().filter(|&id| id != u32::MAX).ok_or(EntryFault::Range(what))
}
