//! Archives of `docker save` that are no OCI layouts: `manifest.json` says what is in them.
//!
//! Format: moby `image/tarexport`, and containers/image `docker/internal/tarfile/types.go`:
//!
//! ```text
//! [{"Config": "<hex>.json", "RepoTags": ["busybox:latest"] | null, "Layers": ["<id>/layer.tar", …]}, …]
//! ```
//!
//! Newer versions write an OCI layout with a `manifest.json` beside it; then that only adds names.

use serde::Deserialize;
use store::Digest;

use crate::limits::{CONFIG_BYTES, IMAGES, LAYERS, MANIFEST_BYTES};
use crate::manifest::{Configuration, json};
use crate::origin::Origin;
use crate::plan::{ImagePlan, LayerPlan, check_count, label, layer_label, promised_digest};
use crate::source::Source;
use crate::{ImageError, Platform, Reference, Result};

const MANIFEST: &str = "manifest.json";

/// One image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl Entry {
    fn names(&self) -> Result<Vec<String>> {
        let tags = self.repo_tags.iter().flatten();
        let mut names = tags.map(|tag| Ok(Reference::parse(tag)?.to_string())).collect::<Result<Vec<_>>>()?;
        names.sort();
        names.dedup();
        Ok(names)
    }
}

pub(crate) fn read_manifest(origin: &Origin) -> Result<Option<Vec<Entry>>> {
    let Some(bytes) = origin.read(MANIFEST, MANIFEST, MANIFEST_BYTES)? else { return Ok(None) };
    let entries: Vec<Entry> = json(MANIFEST, &bytes)?;
    if entries.len() > IMAGES {
        return Err(ImageError::TooLarge { what: MANIFEST.into(), limit: IMAGES as u64, unit: "images" });
    }
    if entries.is_empty() {
        return Err(ImageError::malformed(MANIFEST, "it names no image"));
    }
    Ok(Some(entries))
}

/// Gives images of an OCI layout that have no names those that a `manifest.json` beside it has for them.
pub(crate) fn add_names(origin: &Origin, mut plans: Vec<ImagePlan>) -> Result<Vec<ImagePlan>> {
    if plans.iter().all(|p| !p.names.is_empty()) {
        return Ok(plans);
    }
    for entry in read_manifest(origin)?.unwrap_or_default() {
        let digest = promised_digest(&entry.config);
        for plan in plans.iter_mut().filter(|p| p.names.is_empty() && Some(p.config_digest) == digest) {
            plan.names = entry.names()?;
        }
    }
    Ok(plans)
}

pub(crate) fn plan(origin: &Origin, entries: &[Entry], wanted: &Platform) -> Result<Vec<ImagePlan>> {
    let mut plans: Vec<ImagePlan> = Vec::new();
    let mut available = Vec::new();
    for entry in entries {
        let plan = plan_entry(origin, entry)?;
        if plan.platform.suits(wanted) {
            plans.push(plan);
        } else {
            available.push((plan.label(), plan.platform.to_string()));
        }
    }
    match available.first() {
        Some((image, _)) if plans.is_empty() => {
            let image = image.clone();
            let available = available.into_iter().map(|(_, platform)| platform).collect();
            Err(ImageError::Platform { image, wanted: wanted.to_string(), available })
        }
        _ => Ok(plans),
    }
}

fn plan_entry(origin: &Origin, entry: &Entry) -> Result<ImagePlan> {
    let names = entry.names()?;
    let what = format!("configuration {}", entry.config.chars().take(200).collect::<String>());
    let config = origin.read(&entry.config, &what, CONFIG_BYTES)?.ok_or_else(|| origin.missing(&what))?;
    let config_digest = Digest::of(&config);
    let hex = entry.config.strip_suffix(".json").unwrap_or(&entry.config);
    let promised = promised_digest(&entry.config).or_else(|| Digest::from_hex(hex).ok());
    if promised.is_some_and(|promised| promised != config_digest) {
        return Err(ImageError::WrongDigest { what, found: config_digest });
    }
    let configuration = Configuration::parse(&what, &config)?;
    let layers = entry.layers.as_deref().unwrap_or_default();
    if layers.len() > LAYERS {
        return Err(ImageError::TooLarge { what: MANIFEST.into(), limit: LAYERS as u64, unit: "layers" });
    }
    check_count(&what, layers.len(), configuration.diff_ids.len())?;
    let image = label(names.first(), &config_digest);
    let plan = |(index, (name, diff_id)): (usize, (&String, &Digest))| {
        let what = layer_label(index, &image, diff_id);
        let section = origin.section(name)?.ok_or_else(|| origin.missing(&what))?;
        let blob = promised_digest(name);
        Ok(LayerPlan { index, what, diff_id: *diff_id, blob, media_type: None, source: Source::Section(section) })
    };
    let layers = layers.iter().zip(&configuration.diff_ids).enumerate().map(plan).collect::<Result<_>>()?;
    Ok(ImagePlan {
        names,
        digests: Vec::new(),
        manifest: None,
        config_digest,
        config,
        platform: configuration.platform,
        created: configuration.created,
        layers,
    })
}
