//! Copying a sparse file without its holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
use rustix::io::Errno;

/// Makes `to`, an empty file, equal to `from`: by reflink where the file system can, else by copying the ranges that
/// hold data.
pub(crate) fn clone(from: &File, to: &File) -> io::Result<()> {
    match ioctl_ficlone(to, from) {
        Ok(()) => Ok(()),
        // What file systems without reflinks answer, and those on another device.
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS) => copy_data(from, to),
        Err(e) => Err(e.into()),
    }
}

fn copy_data(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut buffer = vec![0; 128 << 10];
    let mut end = 0;
    while let Some(start) = next_data(from, end)? {
        end = seek(from, SeekFrom::Hole(start))?;
        copy_range(from, to, start..end, &mut buffer)?;
    }
    Ok(())
}

/// Where data begins at or after `offset`. A file system that does not know its holes says: at `offset`.
fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(offset)) {
        Ok(start) => Ok(Some(start)),
        Err(Errno::NXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn copy_range(from: &File, to: &File, range: std::ops::Range<u64>, buffer: &mut [u8]) -> io::Result<()> {
    const PAGE: usize = 4096;
    let mut offset = range.start;
    while offset < range.end {
        let count = usize::try_from(range.end - offset).unwrap_or(usize::MAX).min(buffer.len());
        from.read_exact_at(&mut buffer[..count], offset)?;
        for (index, page) in buffer[..count].chunks(PAGE).enumerate() {
            if page.iter().any(|b| *b != 0) {
                to.write_all_at(page, offset + (index * PAGE) as u64)?;
            }
        }
        offset += count as u64;
    }
    Ok(())
}
