//! What is known of an image, in Docker's words.

use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;
use serde::Serialize;
use serde_json::Value;
use state::ImageRecord;
use store::Object;

use crate::limits::CONFIG_BYTES;
use crate::manifest::{image_configuration, json};
use crate::root::{label, parse};
use crate::{ImageError, Images, Platform, Reference, Result, familiar};

/// An image as `docker image inspect` shows one, with Coracle's own under one key.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspect {
    /// Its id.
    pub id: String,
    /// Its names, short.
    pub repo_tags: Vec<String>,
    /// Its repositories with the digest of its manifest.
    pub repo_digests: Vec<String>,
    /// Who built it.
    pub author: String,
    /// What the builder had to say.
    pub comment: String,
    /// When it was built (RFC 3339).
    pub created: Option<String>,
    /// How to run it, as the configuration has it.
    pub config: Value,
    /// Processor architecture.
    pub architecture: String,
    /// Variant of the processor architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Operating system.
    pub os: String,
    /// Bytes of its layers, uncompressed.
    pub size: u64,
    /// Its layers.
    #[serde(rename = "RootFS")]
    pub root_fs: RootFs,
    /// What only Coracle has.
    pub coracle: Own,
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "Type")]
    pub kind: &'static str,
    /// Their diff ids, bottom first.
    pub layers: Vec<String>,
}

/// How an image is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Own {
    /// When it was loaded, in ns since 1970.
    pub loaded_at: i64,
    /// Its metadata image.
    pub metadata_image: PathBuf,
    /// Bytes of that.
    pub metadata_length: u64,
    /// The data files of its layers, bottom first.
    pub layer_data: Vec<LayerData>,
}

/// The data file of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct LayerData {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of it, holes included.
    pub length: u64,
    /// Its fs-verity digest, where the layer is whole.
    pub verity: Option<String>,
    /// Digest of the blob that the layer came in, where one was named.
    pub blob: Option<String>,
}

impl Images {
    /// Everything that is known of an image.
    ///
    /// # Errors
    ///
    /// [`ImageError::Damaged`] where its configuration is not what it was.
    pub fn inspect(&self, image: &ImageRecord) -> Result<Inspect> {
        let config: Value = json(&what(image), &self.config_bytes(image)?)?;
        let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let platform: Platform = image.platform.parse().unwrap_or_else(|_| Platform {
            os: text("os"),
            architecture: text("architecture"),
            variant: None,
        });
        let layer_data = image.layers.iter().map(|layer| {
            let diff_id = parse(image, &layer.diff_id)?;
            let path = self.store.path(&Object::layer(diff_id)).join("data");
            let facts = self.store.layer(&diff_id).ok().flatten().map(|layer| layer.facts);
            let verity = facts.map(|facts| facts.data_verity.to_string());
            Ok(LayerData { path, length: layer.data_length, verity, blob: layer.blob_digest.clone() })
        });
        Ok(Inspect {
            id: image.id.clone(),
            repo_tags: image.names.iter().map(|n| familiar(n).to_owned()).collect(),
            repo_digests: repo_digests(image),
            author: text("author"),
            comment: text("comment"),
            created: image.created.clone(),
            config: config.get("config").cloned().unwrap_or_default(),
            architecture: platform.architecture,
            variant: platform.variant,
            os: platform.os,
            size: image.size,
            root_fs: RootFs {
                kind: "layers",
                layers: image.layers.iter().map(|layer| layer.diff_id.clone()).collect(),
            },
            coracle: Own {
                loaded_at: image.loaded_at,
                metadata_image: self.store.path(&Object::root(parse(image, &image.root.digest)?)),
                metadata_length: image.root.length,
                layer_data: layer_data.collect::<Result<_>>()?,
            },
        })
    }

    /// The configuration of an image, in the types of the specification.
    ///
    /// # Errors
    ///
    /// [`ImageError::Damaged`] where it is not what it was.
    pub fn config(&self, image: &ImageRecord) -> Result<ImageConfiguration> {
        image_configuration(&what(image), &self.config_bytes(image)?)
    }

    /// The labels of an image; none where its configuration cannot be read.
    pub(crate) fn labels(&self, image: &ImageRecord) -> serde_json::Map<String, Value> {
        let config = self.config_bytes(image).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        config.map(|config: Value| labels_in(&config)).unwrap_or_default()
    }

    pub(crate) fn config_bytes(&self, image: &ImageRecord) -> Result<Vec<u8>> {
        let bytes = self.store.read_blob(&parse(image, &image.id)?, CONFIG_BYTES)?;
        let problem = || "its configuration is missing".to_owned();
        bytes.ok_or_else(|| ImageError::Damaged { image: label(image), problem: problem() })
    }
}

fn what(image: &ImageRecord) -> String {
    format!("configuration {}", image.id)
}

/// Labels of a configuration, as far as they are texts.
fn labels_in(config: &Value) -> serde_json::Map<String, Value> {
    let labels = config.get("config").and_then(|config| config.get("Labels")).and_then(Value::as_object);
    labels.cloned().unwrap_or_default()
}

/// What an image was pulled as or pushed to; in a repository of which nothing is known, its own manifest.
fn repo_digests(image: &ImageRecord) -> Vec<String> {
    let mut digests = image.digests.clone();
    for name in &image.names {
        let Ok(reference) = Reference::parse(name) else { continue };
        let repository = format!("{}@", reference.repository());
        if let Some(digest) = &image.manifest_digest
            && !digests.iter().any(|known| known.starts_with(&repository))
        {
            digests.push(format!("{repository}{digest}"));
        }
    }
    digests.iter().map(|digest| familiar(digest).to_owned()).collect()
}
