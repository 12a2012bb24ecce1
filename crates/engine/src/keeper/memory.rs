//! Gives memory back that a keeper which waits has no use for.
//!
//! Most of what a lone keeper occupies is its program's own text: pages that starting a machine or writing a record
//! touched once. They are in the page cache whoever maps them, but count as the keeper's own while nobody else does.
//! Letting go of them costs a minor fault each when they are needed again.

// UNSAFETY: unmapping pages by address, and a call of the C library's allocator.
#![allow(unsafe_code)]

use std::fs;

/// A mapping as `/proc/self/smaps` describes it.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
}

/// Gives free heap and untouched program text back.
pub(super) fn give_back() {
    // SAFETY: it takes a number and changes nothing that the program can see.
    unsafe { libc::malloc_trim(0) };
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for Mapping { start, end } in clean_file_mappings(&smaps) {
        // SAFETY: the mapping is a private one of a file, it cannot be written, and no page of it differs from the
        // file: dropping its pages has them read from the file again, with the same content. Nothing makes such a
        // mapping writable after the dynamic linker has run. An error leaves everything as it is.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// Private, unwritable mappings of files none of whose pages is the process's own copy. Dirty pages that are no copies
/// are the file's: a program that was just written.
fn clean_file_mappings(smaps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(first), second) = (words.next(), words.next().unwrap_or_default()) else { continue };
        if let Some(range) = range(first) {
            found.extend(candidate.take());
            let is_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
            candidate = Some(range).filter(|_| is_file && matches!(second, "r-xp" | "r--p"));
        } else if matches!(first, "Anonymous:" | "Swap:") && second != "0" {
            candidate = None;
        }
    }
    found.extend(candidate);
    found
}

fn range(text: &str) -> Option<Mapping> {
    let (start, end) = text.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(Mapping { start: number(start)?, end: number(end)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::usage;

    #[test]
    fn only_unwritable_clean_mappings_of_files() {
        let smaps = "\
1000-2000 r--p 00000000 fe:00 12 /bin/x
Private_Clean: 4 kB
Private_Dirty: 0 kB
Anonymous: 0 kB
Swap: 0 kB
VmFlags: rd mr
2000-3000 r-xp 00000000 fe:00 12 /bin/x
Private_Dirty: 8 kB
Anonymous: 0 kB
3000-4000 r--p 00000000 fe:00 12 /bin/x
Anonymous: 4 kB
4000-5000 rw-p 00000000 fe:00 12 /bin/x
Private_Dirty: 0 kB
5000-6000 r-xp 00000000 00:00 0 [vdso]
6000-7000 r-xp 00000000 00:00 0
7000-8000 r--p 00000000 fe:00 12 /bin/y
Swap: 4 kB
";
        let mappings = [Mapping { start: 0x1000, end: 0x2000 }, Mapping { start: 0x2000, end: 0x3000 }];
        assert_eq!(clean_file_mappings(smaps), mappings);
        assert!(clean_file_mappings("\n-\nzz-1 r-xp\n").is_empty());
    }

    #[test]
    fn a_process_goes_on_with_less() {
        let before = usage::of([std::process::id()]);
        give_back();
        let after = usage::of([std::process::id()]);
        assert!(after.rss < before.rss, "{before:?} {after:?}");
    }
}
