//! The documents of an image, from bytes to plain data: indexes, manifests, configurations.
//!
//! OCI image-spec v1.1 (`image-index.md`, `manifest.md`, `config.md`) and docker's schema 2, which differ in media
//! types only. Nothing is read here but the bytes given.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use store::{Digest, DigestError};

use crate::limits::LAYERS;
use crate::{ImageError, Platform, Result};

const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
/// What a manifest is that is written here.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const MANIFEST_TYPES: [&str; 2] = [MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// Characters of what a parser says that are passed on.
const SAID: usize = 300;

/// What one document says of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) platform: Option<Platform>,
}

impl Descriptor {
    /// Whether it can lead to an image; what accompanies images (signatures, attestations) is told by its type.
    pub(crate) fn leads_to_image(&self) -> bool {
        let attests = self.annotations.get("vnd.docker.reference.type").is_some_and(|t| t == "attestation-manifest");
        let unknown = self.platform.as_ref().is_some_and(Platform::is_unknown);
        let known = [&INDEX_TYPES[..], &MANIFEST_TYPES[..], &[""][..]].concat();
        known.contains(&self.media_type.as_str()) && !attests && !unknown
    }
}

/// An index or a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest { config: Descriptor, layers: Vec<Descriptor> },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    annotations: Option<BTreeMap<String, String>>,
    platform: Option<Platform>,
}

impl Document {
    /// Reads an index or a manifest that its descriptor called `media_type` (nothing, for an `index.json`).
    pub(crate) fn parse(what: &str, bytes: &[u8], media_type: &str) -> Result<Self> {
        let raw: RawDocument = json(what, bytes)?;
        if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
            let media_type = "application/vnd.docker.distribution.manifest.v1+json".to_owned();
            return Err(ImageError::MediaType { what: what.to_owned(), media_type });
        }
        let is_manifest = raw.layers.is_some() || raw.config.is_some();
        if raw.manifests.is_some() && is_manifest {
            return Err(ImageError::malformed(what, "it is an index and a manifest at once"));
        }
        for called in [media_type, raw.media_type.as_deref().unwrap_or_default()] {
            let unlike = if is_manifest { &INDEX_TYPES } else { &MANIFEST_TYPES };
            if unlike.contains(&called) {
                return Err(ImageError::malformed(what, format!("it is called {called}, and is something else")));
            }
        }
        match raw {
            RawDocument { manifests: Some(manifests), .. } => {
                Ok(Self::Index(manifests.into_iter().map(|d| d.live(what)).collect::<Result<_>>()?))
            }
            RawDocument { config: Some(config), layers, .. } => {
                let layers = layers.unwrap_or_default();
                if layers.len() > LAYERS {
                    let what = what.to_owned();
                    return Err(ImageError::TooLarge { what, limit: LAYERS as u64, unit: "layers" });
                }
                let config = config.live(what)?;
                if !config.media_type.is_empty() && !CONFIG_TYPES.contains(&config.media_type.as_str()) {
                    let what = format!("the configuration of {what}");
                    return Err(ImageError::MediaType { what, media_type: config.media_type });
                }
                let layers = layers.into_iter().map(|d| d.live(what)).collect::<Result<_>>()?;
                Ok(Self::Manifest { config, layers })
            }
            _ => Err(ImageError::malformed(what, "it has neither manifests nor a configuration")),
        }
    }
}

/// What a manifest calls itself. Those that do not are OCI's (image-spec, `manifest.md`, "mediaType").
pub(crate) fn media_type(what: &str, bytes: &[u8]) -> Result<String> {
    let raw: RawDocument = json(what, bytes)?;
    Ok(raw.media_type.unwrap_or_else(|| MANIFEST_TYPE.to_owned()))
}

impl RawDescriptor {
    fn live(self, what: &str) -> Result<Descriptor> {
        Ok(Descriptor {
            digest: self.digest.parse().map_err(|e: DigestError| ImageError::malformed(what, e.to_string()))?,
            media_type: self.media_type,
            size: self.size,
            annotations: self.annotations.unwrap_or_default(),
            platform: self.platform,
        })
    }
}

/// What loading needs of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Configuration {
    pub(crate) platform: Platform,
    pub(crate) created: Option<String>,
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct RawConfiguration {
    #[serde(flatten)]
    platform: Platform,
    created: Option<String>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Option<Vec<String>>,
}

impl Configuration {
    pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Self> {
        let raw: RawConfiguration = json(what, bytes)?;
        if raw.rootfs.kind != "layers" {
            return Err(ImageError::malformed(what, "its rootfs is not of the type \"layers\""));
        }
        let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() > LAYERS {
            let what = what.to_owned();
            return Err(ImageError::TooLarge { what, limit: LAYERS as u64, unit: "layers" });
        }
        let parse = |text: &String| text.parse().map_err(|e: DigestError| ImageError::malformed(what, e.to_string()));
        let diff_ids = diff_ids.iter().map(parse).collect::<Result<_>>()?;
        // What runs the image will read all of it: better to know now that it can be read.
        image_configuration(what, bytes)?;
        Ok(Self { platform: raw.platform, created: raw.created, diff_ids })
    }
}

/// The whole configuration in the types of the specification. What builders leave out or set to null although it is
/// required, or may not be null, is filled in.
pub(crate) fn image_configuration(what: &str, bytes: &[u8]) -> Result<ImageConfiguration> {
    let mut value: Value = json(what, bytes)?;
    remove_nulls(&mut value);
    if let Some(object) = value.as_object_mut() {
        let host = Platform::host();
        object.entry("architecture").or_insert_with(|| host.architecture.into());
        object.entry("os").or_insert_with(|| host.os.into());
        if let Some(rootfs) = object.get_mut("rootfs").and_then(Value::as_object_mut) {
            rootfs.entry("diff_ids").or_insert_with(|| Value::Array(Vec::new()));
        }
    }
    serde_json::from_value(value).map_err(|e| not_json(what, e))
}

/// Removes members that are null, except that in Go's sets (`"Volumes": {"/data": null}`) the key is what counts.
fn remove_nulls(value: &mut Value) {
    let Some(object) = value.as_object_mut() else { return };
    object.retain(|_, member| !member.is_null());
    if let Some(Value::Object(config)) = object.get_mut("config") {
        config.retain(|_, member| !member.is_null());
        for key in ["ExposedPorts", "Volumes"] {
            if let Some(Value::Object(set)) = config.get_mut(key) {
                set.values_mut().for_each(|v| *v = Value::Object(serde_json::Map::new()));
            }
        }
    }
    if let Some(Value::Object(rootfs)) = object.get_mut("rootfs") {
        rootfs.retain(|_, member| !member.is_null());
    }
}

pub(crate) fn json<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| not_json(what, e))
}

/// What a parser says may quote the text at fault, however long that is.
pub(crate) fn not_json(what: &str, source: serde_json::Error) -> ImageError {
    let said = source.to_string();
    if said.len() <= SAID {
        return ImageError::Json { what: what.to_owned(), source };
    }
    ImageError::malformed(what, format!("{} …", said.chars().take(SAID).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{DIGEST}","size":0}}"#)
    }

    #[test]
    fn a_document_means_one_thing() {
        let entry = descriptor(MANIFEST_TYPES[0]);
        let config = descriptor(CONFIG_TYPES[0]);
        let both = format!(r#"{{"schemaVersion":2,"manifests":[{entry}],"config":{config},"layers":[]}}"#);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#);
        let parse = |text: &str, media_type: &str| Document::parse("it", text.as_bytes(), media_type);
        assert!(matches!(parse(&both, ""), Err(ImageError::Malformed { .. })));
        assert!(matches!(parse(&index, MANIFEST_TYPES[0]), Err(ImageError::Malformed { .. })));
        assert!(matches!(parse(&manifest, INDEX_TYPES[1]), Err(ImageError::Malformed { .. })));
        assert!(matches!(parse(&index, INDEX_TYPES[0]), Ok(Document::Index(list)) if list.len() == 1));
        assert!(matches!(parse(&manifest, MANIFEST_TYPES[0]), Ok(Document::Manifest { .. })));
        assert!(matches!(parse("{}", ""), Err(ImageError::Malformed { .. })));
        assert!(matches!(parse("[]", ""), Err(ImageError::Json { .. })));
        assert!(matches!(parse(r#"{"schemaVersion":1}"#, ""), Err(ImageError::MediaType { .. })));
        let artifact = manifest.replace(CONFIG_TYPES[0], "application/vnd.oci.empty.v1+json");
        assert!(matches!(parse(&artifact, ""), Err(ImageError::MediaType { .. })));
        let evil = index.replace(DIGEST, "sha256:../../etc/passwd");
        assert!(matches!(parse(&evil, ""), Err(ImageError::Malformed { .. })));
        let negative = index.replace(r#""size":0"#, r#""size":-1"#);
        assert!(matches!(parse(&negative, ""), Err(ImageError::Json { .. })));
    }

    #[test]
    fn careless_configurations_are_read() {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","author":null,"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},
            "config":{{"Cmd":null,"Env":["A=b"],"Volumes":{{"/data":null}},"ExposedPorts":{{"80/tcp":{{}}}},
            "Healthcheck":{{"Test":["NONE"]}},"OnBuild":null}},"history":null,"docker_version":"1"}}"#
        );
        let configuration = Configuration::parse("it", text.as_bytes()).unwrap();
        assert_eq!(configuration.platform.to_string(), "linux/amd64");
        let whole = image_configuration("it", text.as_bytes()).unwrap();
        let config = whole.config().as_ref().unwrap();
        assert_eq!(config.volumes().as_deref(), Some(&["/data".to_owned()][..]));
        let bare = br#"{"rootfs":{"type":"layers","diff_ids":null}}"#;
        assert!(Configuration::parse("it", bare).unwrap().diff_ids.is_empty());
        for bad in [r#"{"rootfs":{"type":"other"}}"#, "{}", "null", r#"{"rootfs":{"type":"layers","diff_ids":["x"]}}"#]
        {
            assert!(Configuration::parse("it", bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Document::parse("it", &bytes, "");
            let _ = Configuration::parse("it", &bytes);
        }
    }
}
