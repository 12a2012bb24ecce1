//! The digest that fs-verity gives a file, computed while the file is written.
//!
//! ```text
//!  blocks of the file      4096 bytes each, the last one filled up with zeros
//!  level 0                 their SHA-256 digests, 128 to a block, the last block filled up with zeros
//!  level n + 1             the digests of level n's blocks, until a level has only one digest: the root hash
//!  descriptor (256 bytes)  version 1, hash algorithm 1 (SHA-256), log2 of the block size 12, salt size 0,
//!                          u32 0, u64 length of the file, root hash in 64 bytes, salt in 32, 144 of zeros
//!  digest                  SHA-256 of the descriptor
//! ```
//!
//! The root hash of an empty file is zero. Integers are little-endian. Source: the Linux kernel's
//! `Documentation/filesystems/fsverity.rst`; `fsverity digest FILE` prints the same.
//!
//! Memory is one block for each level, six for eight tebibytes. A tree of zeros is computed once for each level, so
//! holes cost next to nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use sha2::{Digest, Sha256};

/// Bytes of a block, of the file and of the tree alike.
const BLOCK: usize = 4096;
/// Bytes of a digest.
const DIGEST: usize = 32;
/// Digests in a block of the tree.
const FANOUT: u64 = (BLOCK / DIGEST) as u64;

type Hash = [u8; DIGEST];

/// Computes an fs-verity digest (SHA-256, blocks of 4096 bytes, no salt) of bytes as they come by.
#[derive(Debug)]
pub struct Verity {
    /// The file's last block, as long as it is not full.
    block: Box<[u8; BLOCK]>,
    /// Bytes so far.
    length: u64,
    levels: Vec<Level>,
    /// The digest in each level of what holds nothing but zeros.
    zeros: Vec<Hash>,
}

/// One level of the tree.
#[derive(Debug)]
struct Level {
    /// Its last block, as long as it is not full.
    block: Box<[u8; BLOCK]>,
    /// Digests in it so far, those in full blocks included.
    digests: u64,
}

impl Default for Verity {
    fn default() -> Self {
        Self::new()
    }
}

impl Verity {
    /// Of no bytes yet.
    pub fn new() -> Self {
        Self { block: Box::new([0; BLOCK]), length: 0, levels: Vec::new(), zeros: vec![hash(&[0; BLOCK])] }
    }

    /// Takes the next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        let start = self.within_block();
        let mut rest = bytes;
        if start > 0 {
            let (head, tail) = bytes.split_at(bytes.len().min(BLOCK - start));
            self.block[start..start + head.len()].copy_from_slice(head);
            if start + head.len() == BLOCK {
                let leaf = self.leaf(&self.block[..]);
                self.push(0, leaf);
            }
            rest = tail;
        }
        let (blocks, tail) = rest.as_chunks::<BLOCK>();
        for block in blocks {
            let leaf = self.leaf(block);
            self.push(0, leaf);
        }
        self.block[..tail.len()].copy_from_slice(tail);
        self.length += bytes.len() as u64;
    }

    /// Takes `count` zero bytes as the next bytes of the file.
    pub fn zeros(&mut self, count: u64) {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        let to_boundary = (BLOCK - self.within_block()) % BLOCK;
        let head = usize::try_from(count).unwrap_or(usize::MAX).min(to_boundary);
        self.update(&ZEROS[..head]);
        let count = count - head as u64;
        let (blocks, tail) = (count / BLOCK as u64, count % BLOCK as u64);
        self.push_zeros(0, blocks);
        self.length += blocks * BLOCK as u64;
        self.update(&ZEROS[..usize::try_from(tail).unwrap_or(0)]);
    }

    /// The digest of all bytes so far.
    pub fn finish(mut self) -> [u8; 32] {
        let start = self.within_block();
        if start > 0 {
            self.block[start..].fill(0);
            let leaf = self.leaf(&self.block[..]);
            self.push(0, leaf);
        }
        let root = self.root();
        let mut descriptor = [0; 256];
        descriptor[..3].copy_from_slice(&[1, 1, 12]);
        descriptor[8..16].copy_from_slice(&self.length.to_le_bytes());
        descriptor[16..16 + DIGEST].copy_from_slice(&root);
        hash(&descriptor)
    }

    fn root(&mut self) -> Hash {
        let mut level = 0;
        while let Some(Level { block, digests }) = self.levels.get_mut(level) {
            let filled = within(*digests);
            if *digests == 1 {
                return *block.first_chunk().unwrap_or(&[0; DIGEST]);
            }
            if filled > 0 {
                block[filled..].fill(0);
                let above = hash(&block[..]);
                self.push(level + 1, above);
            }
            level += 1;
        }
        [0; DIGEST]
    }

    /// How many bytes of the file's last block there are.
    fn within_block(&self) -> usize {
        usize::try_from(self.length % BLOCK as u64).unwrap_or(0)
    }

    fn leaf(&self, block: &[u8]) -> Hash {
        if is_zero(block) { self.zeros[0] } else { hash(block) }
    }

    /// The level, made if there was none. There is one for each level below already.
    fn level(&mut self, level: usize) -> &mut Level {
        if level == self.levels.len() {
            self.levels.push(Level { block: Box::new([0; BLOCK]), digests: 0 });
        }
        &mut self.levels[level]
    }

    fn push(&mut self, level: usize, digest: Hash) {
        let Level { block, digests } = self.level(level);
        let at = within(*digests);
        block[at..at + DIGEST].copy_from_slice(&digest);
        *digests += 1;
        if at + DIGEST == BLOCK {
            let above = hash(&block[..]);
            self.push(level + 1, above);
        }
    }

    /// Pushes digests of trees of zeros.
    fn push_zeros(&mut self, level: usize, mut count: u64) {
        if level == self.zeros.len() {
            let below = self.zeros[level - 1];
            self.zeros.push(hash(below.repeat(BLOCK / DIGEST).as_slice()));
        }
        let zeros = self.zeros[level];
        while count > 0 && within(self.level(level).digests) > 0 {
            self.push(level, zeros);
            count -= 1;
        }
        if count >= FANOUT {
            self.level(level).digests += count / FANOUT * FANOUT;
            self.push_zeros(level + 1, count / FANOUT);
        }
        for _ in 0..count % FANOUT {
            self.push(level, zeros);
        }
    }
}

/// The digest of a whole file, as it is now. Holes are not read; moves the file's position.
pub fn of_file(file: &File) -> io::Result<[u8; 32]> {
    let length = file.metadata()?.len();
    let mut verity = Verity::new();
    let mut buffer = vec![0; 1 << 20];
    let mut position = 0;
    while position < length {
        let (start, end) = next_extent(file, position, length)?;
        verity.zeros(start - position);
        position = start;
        while position < end {
            let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
            file.read_exact_at(&mut buffer[..wanted], position)?;
            verity.update(&buffer[..wanted]);
            position += wanted as u64;
        }
    }
    Ok(verity.finish())
}

/// Where the next bytes at or after `position` are that are not in a hole.
fn next_extent(file: &File, position: u64, length: u64) -> io::Result<(u64, u64)> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(position)) {
        Ok(start) => start.min(length),
        Err(rustix::io::Errno::NXIO) => return Ok((length, length)),
        // Not every file system tells holes apart.
        Err(rustix::io::Errno::INVAL) => return Ok((position, length)),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start)).map_or(length, |end| end.min(length));
    Ok((start, end))
}

/// Whether there is nothing but zeros. Looks at the first word before all others: most blocks end there.
pub(crate) fn is_zero(block: &[u8]) -> bool {
    block.first_chunk::<8>().is_none_or(|first| *first == [0; 8]) && block.iter().fold(0, |seen, byte| seen | byte) == 0
}

/// Bytes of a level's last block that are in use.
fn within(digests: u64) -> usize {
    usize::try_from(digests % FANOUT).unwrap_or(0) * DIGEST
}

fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(digest: [u8; 32]) -> String {
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn of(bytes: &[u8]) -> String {
        let mut verity = Verity::new();
        verity.update(bytes);
        hex(verity.finish())
    }

    /// What `fsverity digest` prints for files of so many times the letter a.
    #[test]
    fn known_digests() {
        for (length, digest) in [
            (0, "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),
            (1, "bce75948b9e7510293f8f2720412af9697c1479281323f3f220623fb8e94b557"),
            (4096, "a2a808ddaced77f0b6b3068f47b14b5a1fb3fc43674993ab11b8e7e6f2d089e2"),
            (4097, "18b155c0b6e054f3f7d22488ed15340e74dc161ce2d123e13eb685c3ce565f70"),
            (1_000_000, "50049eeefec9385017816e55c0783638f225a3938338cbd673ce9ee8bc977100"),
        ] {
            assert_eq!(of(&vec![b'a'; length]), digest, "{length} bytes");
        }
    }

    #[test]
    fn pieces_of_any_size_make_the_same() {
        let bytes: Vec<u8> = (0..700_000_u32).map(|at| at.wrapping_mul(0x9e37_79b9).to_be_bytes()[0]).collect();
        for step in [1000, 4095, 4096, 4097, 100_000] {
            let mut verity = Verity::new();
            bytes.chunks(step).for_each(|piece| verity.update(piece));
            assert_eq!(hex(verity.finish()), of(&bytes), "pieces of {step}");
        }
    }

    #[test]
    fn tebibytes_of_nothing_take_no_time() {
        let mut at_once = Verity::new();
        at_once.zeros(8 << 40);
        at_once.update(b"end");
        let mut in_two = Verity::new();
        in_two.zeros((3 << 40) + 12_345);
        in_two.zeros((5 << 40) - 12_345);
        in_two.update(b"end");
        assert_eq!(at_once.finish(), in_two.finish());
    }
}
