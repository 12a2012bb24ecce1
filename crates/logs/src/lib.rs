//! The output of a container, kept in files.
//!
//! # The format
//!
//! A directory of files `00000001.log`, `00000002.log` and so on: the highest number is written, the lowest are
//! removed when there are too many. A file is lines of JSON, as Docker's `json-file` driver has them:
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z"}
//! ```
//!
//! `log` is a line of output with its newline. A line longer than [`MAX_LINE`] is cut into several records, and all
//! but the last have no newline; so has output whose end is no newline. Bytes that are no UTF-8 become U+FFFD.
//!
//! Files are numbered rather than renamed: a name means the same bytes for ever, so that a reader which is
//! overtaken by the rotation needs to compare numbers and nothing else.
//!
//! # Writer and reader
//!
//! One [`Writer`] at a time appends whole lines, each batch with one `write`. It never fails and never waits for more
//! than the disk: what a full disk does not take is counted and lost, and the first line that fits again says so. What
//! a crash tore is ended by a newline when the next writer comes.
//!
//! Any number of [`Reader`]s share nothing with it but the files. They take what is a record and skip what is not.
//!
//! # Threats
//!
//! | from | what | answer |
//! |---|---|---|
//! | container | endless lines, control bytes, forged JSON | cut at [`MAX_LINE`]; everything is escaped, so a record is a line |
//! | container | more output than the disk holds | files of bounded size and number |
//! | crashes, full disks | torn lines | skipped by readers, never merged with what follows |
//! | a damaged disk | lines without an end | skipped in pieces: a reader holds one record's worth |

mod reader;
mod record;
mod writer;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub use reader::{Options, Reader};
pub use record::{Record, Stream};
pub use writer::{Limits, Writer};

/// Most bytes of output in one record.
pub const MAX_LINE: usize = 16 << 10;

/// Most bytes of a record's line: each byte of output may become six, and the rest is short.
const MAX_ENCODED: usize = MAX_LINE * 6 + 256;

fn file(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:08}.log"))
}

/// The numbers of the files in a directory, ascending. One that is not there has none.
fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let number = |name: &str| name.strip_suffix(".log")?.parse().ok();
    let mut numbers: Vec<u64> = entries.filter_map(|entry| entry.ok()?.file_name().to_str().and_then(number)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}
