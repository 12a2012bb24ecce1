//! Volumes as plain data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is known of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Unique among volumes.
    pub name: String,
    /// In ns since 1970.
    pub created_at: i64,
    /// Bytes of its disk.
    pub size: u64,
    /// Whether a container made it without naming it: then it goes with the container where that is asked for.
    #[serde(default)]
    pub anonymous: bool,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The options that it was made with.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// It is being removed: its disk may be gone already, and nobody gets it any more.
    #[serde(default)]
    pub removing: bool,
}

impl VolumeRecord {
    /// A new volume without labels and options.
    #[must_use]
    pub fn new(name: String, size: u64, created_at: i64) -> Self {
        Self {
            name,
            created_at,
            size,
            anonymous: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            removing: false,
        }
    }
}
