//! How an image came to be, step by step, as its builder wrote it down.

use serde::Deserialize;
use serde_json::Value;
use state::ImageRecord;
use store::StoreError;

use crate::manifest::{json, not_json};
use crate::root::parse;
use crate::{Images, Result};

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image that the step made, where it is known: for the last one, the image itself.
    pub id: Option<String>,
    /// When it was made (RFC 3339).
    pub created: Option<String>,
    /// The command that made it.
    pub created_by: String,
    /// Bytes of its layer, uncompressed; 0 where it made none.
    pub size: u64,
    /// What the builder had to say.
    pub comment: String,
}

/// What builders write. Everything may be missing or null.
#[derive(Deserialize)]
struct RawStep {
    created: Option<String>,
    created_by: Option<String>,
    comment: Option<String>,
    empty_layer: Option<bool>,
}

impl Images {
    /// The steps that made an image, the last one first.
    ///
    /// Layers that no step claims stand for themselves, and steps that claim a layer too many made none: the sizes
    /// always add up to the image's.
    ///
    /// # Errors
    ///
    /// [`crate::ImageError::Damaged`] where the configuration is not what it was.
    pub fn history(&self, image: &ImageRecord) -> Result<Vec<HistoryEntry>> {
        let what = format!("the history of {}", image.id);
        let config: Value = json(&what, &self.config_bytes(image)?)?;
        let steps = config.get("history").filter(|steps| !steps.is_null()).cloned();
        let steps: Vec<RawStep> = match steps {
            Some(steps) => serde_json::from_value(steps).map_err(|e| not_json(&what, e))?,
            None => Vec::new(),
        };
        let mut sizes = Vec::with_capacity(image.layers.len());
        for layer in &image.layers {
            sizes.push(self.layer_size(image, &layer.diff_id)?);
        }
        let mut sizes = sizes.into_iter();
        let mut entries: Vec<_> = steps.into_iter().map(|step| entry(step, &mut sizes)).collect();
        entries.extend(sizes.map(|size| HistoryEntry { size, ..HistoryEntry::default() }));
        entries.reverse();
        if let Some(last) = entries.first_mut() {
            last.id = Some(image.id.clone());
        }
        Ok(entries)
    }

    /// A layer that is gone or damaged has no size that is known.
    fn layer_size(&self, image: &ImageRecord, diff_id: &str) -> Result<u64> {
        match self.store.layer(&parse(image, diff_id)?) {
            Ok(layer) => Ok(layer.map_or(0, |layer| layer.facts.unpacked_length)),
            Err(StoreError::Damaged { .. }) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }
}

fn entry(step: RawStep, sizes: &mut impl Iterator<Item = u64>) -> HistoryEntry {
    let has_layer = step.empty_layer != Some(true);
    HistoryEntry {
        id: None,
        created: step.created,
        created_by: step.created_by.unwrap_or_default(),
        size: has_layer.then(|| sizes.next()).flatten().unwrap_or(0),
        comment: step.comment.unwrap_or_default(),
    }
}
