//! How large what comes from outside may be. What is in use stays far below.

/// Bytes of an index, a manifest, or a docker archive's `manifest.json`, as registries limit them.
pub const MANIFEST_BYTES: u64 = 4 << 20;

/// Bytes of a configuration.
pub const CONFIG_BYTES: u64 = 8 << 20;

/// Indexes between the outermost and a manifest.
pub const INDEX_DEPTH: usize = 3;

/// Layers of an image. Docker itself stops at 127.
pub const LAYERS: usize = 500;

/// Images of one archive.
pub const IMAGES: usize = 1000;

/// Members of an outer archive.
pub const MEMBERS: usize = 200_000;

/// Bytes of a member's name or of the headers that describe it, in an outer archive.
pub const MEMBER_HEADER_BYTES: u64 = 64 << 10;
