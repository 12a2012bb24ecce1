//! The fs-verity digest is the one that Debian's `fsverity` computes.

#![allow(missing_docs)]

use std::os::unix::fs::FileExt;
use std::process::Command;

use layer::verity::{Verity, of_file};
use tempfile::NamedTempFile;

fn hex(digest: [u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn noise(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect()
}

fn by_tool(file: &NamedTempFile) -> String {
    let output = Command::new("fsverity").args(["digest", "--compact"]).arg(file.path()).output();
    let output = output.expect("`cargo xtask setup` installs fsverity");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

#[test]
fn of_bytes() {
    for length in [0, 1, 4095, 4096, 4097, 8192, 128 * 4096, 128 * 4096 + 1, 300_000, 129 * 4096, 17 << 20] {
        let file = NamedTempFile::new().unwrap();
        let bytes = noise(length);
        file.as_file().write_all_at(&bytes, 0).unwrap();
        let expected = by_tool(&file);
        let mut verity = Verity::new();
        verity.update(&bytes);
        assert_eq!(hex(verity.finish()), expected, "{length} bytes");
        assert_eq!(hex(of_file(file.as_file()).unwrap()), expected, "{length} bytes of a file");
    }
}

#[test]
fn of_holes() {
    for (before, hole, after) in [
        (0, 1, 0),
        (0, 4096, 0),
        (10, 100, 10),
        (10, 5000, 10),
        (4096, 128 * 4096, 1),
        (5 * 4096, 300 * 4096, 4096),
        (1, (1 << 26) + 3, 70_000),
        (127 * 4096, 128 * 128 * 4096, 4096),
        (0, 128 * 128 * 4096, 0),
    ] {
        let file = NamedTempFile::new().unwrap();
        let (first, last) = (noise(before), noise(after));
        file.as_file().write_all_at(&first, 0).unwrap();
        file.as_file().write_all_at(&last, before as u64 + hole).unwrap();
        file.as_file().set_len((before + after) as u64 + hole).unwrap();
        let mut verity = Verity::new();
        verity.update(&first);
        verity.zeros(hole);
        verity.update(&last);
        let expected = by_tool(&file);
        assert_eq!(hex(verity.finish()), expected, "{before} bytes, a hole of {hole}, {after} bytes");
        assert_eq!(hex(of_file(file.as_file()).unwrap()), expected, "{before} bytes, a hole of {hole}, {after} bytes");
    }
}
