//! Manifests that are written here, because an image came with none or its layers are no longer as they came.
//!
//! OCI image-spec v1.1, `manifest.md`.

use serde::Serialize;
use store::Digest;

use crate::manifest::MANIFEST_TYPE;

const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_TAR_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// What a plain layer is.
pub(crate) const TAR_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// What a layer is that was compressed with gzip.
pub(crate) const GZIP_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What a manifest says of something else: `descriptor.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Described {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    /// Bytes.
    pub(crate) size: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NewManifest {
    schema_version: u32,
    media_type: &'static str,
    config: Described,
    layers: Vec<Described>,
}

/// The bytes of the manifest of an image of these layers, bottom first.
pub(crate) fn new_manifest(config: &Digest, config_size: u64, layers: impl IntoIterator<Item = Described>) -> Vec<u8> {
    let config = Described { media_type: CONFIG_TYPE.to_owned(), digest: config.to_string(), size: config_size };
    let layers = layers.into_iter().map(in_oci_words).collect();
    let manifest = NewManifest { schema_version: 2, media_type: MANIFEST_TYPE, config, layers };
    // Strings and numbers are always written.
    serde_json::to_vec(&manifest).unwrap_or_default()
}

/// A layer that came with one of docker's media types, under OCI's name for the same.
fn in_oci_words(mut layer: Described) -> Described {
    if let Some(suffix) = layer.media_type.strip_prefix(DOCKER_TAR_TYPE) {
        layer.media_type = format!("{TAR_TYPE}{}", suffix.replace('.', "+"));
    }
    layer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Document;

    #[test]
    fn what_is_written_can_be_read_and_speaks_of_oci_types_alone() {
        let digest = Digest::of(b"layer").to_string();
        let layer = |media_type: &str| Described { media_type: media_type.to_owned(), digest: digest.clone(), size: 5 };
        let gzip = format!("{DOCKER_TAR_TYPE}.gzip");
        let bytes = new_manifest(&Digest::of(b"config"), 6, [layer(&gzip), layer(TAR_TYPE)]);
        let Document::Manifest { config, layers } = Document::parse("it", &bytes, MANIFEST_TYPE).unwrap() else {
            panic!("no manifest");
        };
        assert_eq!((config.size, layers.len()), (6, 2));
        assert_eq!([&layers[0].media_type[..], &layers[1].media_type], [GZIP_TYPE, TAR_TYPE]);
    }
}
