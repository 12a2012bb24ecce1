//! What a layer may cost.

/// Longest path, in bytes: Linux `PATH_MAX` without its terminator.
pub const PATH_MAX: usize = 4095;
/// Longest path component, in bytes: `NAME_MAX` of every Linux file system.
pub const NAME_MAX: usize = 255;
/// Longest extended attribute value, in bytes: what an EROFS attribute entry can hold. Linux itself stops at 65,536.
pub const XATTR_VALUE_MAX: usize = 65_535;
/// Most bytes of extended attributes (names, values and four bytes for each) that one inode may carry. EROFS counts
/// an inode's attribute area in 16 bits of four bytes each; this leaves room for its padding.
pub const XATTR_TOTAL_MAX: usize = 128 * 1024;
/// Most symbolic links followed while one path is resolved, as in the kernel.
pub const SYMLINKS_MAX: u32 = 40;

/// Upper bounds for untrusted layers. Exceeding one is an error that names the entry at fault, never a panic or an
/// unbounded allocation. The bounds are per layer, except where said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Entries of an archive.
    pub entries: u64,
    /// Bytes of an encoded [`Changeset`](crate::Changeset), which is also its size in memory.
    pub index_bytes: u64,
    /// Bytes of stored content, holes included.
    pub content_bytes: u64,
    /// Bytes that mean nothing: what follows the end of the archive, zeros aside, and the content of whiteouts.
    pub ignored_bytes: u64,
    /// Bytes of one PAX header or one GNU long name.
    pub extended_header_bytes: u64,
    /// Data extents of one sparse file.
    pub sparse_extents: u64,
    /// Directories between the root and an inode, after symbolic links are resolved.
    pub depth: u32,
    /// Inodes of a merge, those that a later layer removes included. Over all layers.
    pub inodes: u64,
    /// Path components looked up during a merge. Over all layers; bounds the time that symbolic links pointing at
    /// symbolic links can cost.
    pub lookups: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            index_bytes: 512 << 20,
            content_bytes: 8 << 40,
            ignored_bytes: 64 << 20,
            extended_header_bytes: 1 << 20,
            sparse_extents: 1 << 18,
            depth: 2048,
            inodes: 8_000_000,
            lookups: 100_000_000,
        }
    }
}
