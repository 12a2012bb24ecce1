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
            let path = self.store.path(&Object::layer(parse(image, &layer.diff_id)?)).join("data");
            Ok(LayerData { path, length: layer.data_length, blob: layer.blob_digest.clone() })
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

    fn config_bytes(&self, image: &ImageRecord) -> Result<Vec<u8>> {
        let bytes = self.store.read_blob(&parse(image, &image.id)?, CONFIG_BYTES)?;
        let problem = || "its configuration is missing".to_owned();
        bytes.ok_or_else(|| ImageError::Damaged { image: label(image), problem: problem() })
    }
}

fn what(image: &ImageRecord) -> String {
    format!("configuration {}", image.id)
}

fn repo_digests(image: &ImageRecord) -> Vec<String> {
    let Some(digest) = &image.manifest_digest else { return Vec::new() };
    let names = image.names.iter().filter_map(|name| Reference::parse(name).ok());
    let mut digests: Vec<_> = names.map(|r| familiar(&format!("{}@{digest}", r.repository())).to_owned()).collect();
    digests.dedup();
    digests
}
