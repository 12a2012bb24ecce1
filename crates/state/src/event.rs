//! Events as plain data.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// How many events are kept; older ones go.
pub const EVENTS_KEPT: usize = 10_000;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A volume.
    Volume,
}

impl EventKind {
    /// The word in records, which is Docker's.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Volume => "volume",
        }
    }

    /// The kind of that word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        [Self::Container, Self::Image, Self::Volume].into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a thing's event says beside what happened: texts by name.
pub type Attributes = BTreeMap<String, String>;

/// Something that happened to a container, an image or a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number: each event's is greater than those of all that were written before.
    pub seq: i64,
    /// When, in ns since 1970.
    pub at: i64,
    /// What it happened to.
    pub kind: EventKind,
    /// What happened, in Docker's words.
    pub action: String,
    /// Which one it happened to: id of a container or an image, name of a volume.
    pub id: String,
    /// More about it.
    pub attributes: Attributes,
}

/// Which events are wanted. The default wants all that are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Those with a greater number than this.
    pub after: i64,
    /// Those at this moment or later, in ns since 1970.
    pub since: Option<i64>,
    /// Those at this moment or before, in ns since 1970.
    pub until: Option<i64>,
}
