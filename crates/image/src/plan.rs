//! What an archive holds: every document read and checked before anything is written.

use store::Digest;

use crate::compression::LayerType;
use crate::limits::{IMAGES, INDEX_DEPTH, MANIFEST_BYTES};
use crate::manifest::{Configuration, Descriptor, Document};
use crate::origin::{Origin, blob_name};
use crate::source::{Documents, Source};
use crate::{ImageError, Platform, Reference, Result, docker, familiar};

const CONTAINERD_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image that can be loaded.
#[derive(Debug)]
pub(crate) struct ImagePlan {
    /// Complete names, sorted.
    pub(crate) names: Vec<String>,
    /// Repositories with the digest that they have it under.
    pub(crate) digests: Vec<String>,
    pub(crate) manifest: Option<(Digest, Vec<u8>)>,
    pub(crate) config_digest: Digest,
    pub(crate) config: Vec<u8>,
    pub(crate) platform: Platform,
    pub(crate) created: Option<String>,
    /// Bottom first.
    pub(crate) layers: Vec<LayerPlan>,
}

/// A layer, and where its blob is.
#[derive(Debug)]
pub(crate) struct LayerPlan {
    /// Which of its image's, from 0 at the bottom.
    pub(crate) index: usize,
    /// Names it in errors: `layer 3 of busybox:latest (sha256:…)`.
    pub(crate) what: String,
    pub(crate) diff_id: Digest,
    /// What the blob's digest must be, if anything says.
    pub(crate) blob: Option<Digest>,
    /// What its descriptor says it is; nothing where there is none.
    pub(crate) media_type: Option<String>,
    pub(crate) source: Source,
}

impl ImagePlan {
    /// What people call it.
    pub(crate) fn label(&self) -> String {
        label(self.names.first().or(self.digests.first()), &self.config_digest)
    }

    /// Lets errors about its layers say whose they are.
    pub(crate) fn label_layers(&mut self) {
        let label = self.label();
        for (index, layer) in self.layers.iter_mut().enumerate() {
            layer.what = layer_label(index, &label, layer.blob.as_ref().unwrap_or(&layer.diff_id));
        }
    }
}

pub(crate) fn label(name: Option<&String>, id: &Digest) -> String {
    name.map_or_else(|| id.to_string(), |name| familiar(name).to_owned())
}

/// Finds the images for the platform `wanted`.
pub(crate) fn plan(origin: &Origin, wanted: &Platform) -> Result<Vec<ImagePlan>> {
    if let Some(bytes) = origin.read("index.json", "index.json", MANIFEST_BYTES)? {
        check_layout(origin)?;
        let plans = plan_layout(origin, &bytes, wanted)?;
        return docker::add_names(origin, plans);
    }
    match docker::read_manifest(origin)? {
        Some(entries) => docker::plan(origin, &entries, wanted),
        None => Err(origin.no_image()),
    }
}

/// OCI image-spec, `image-layout.md`: the file `oci-layout` states the version. Some writers forget the file.
fn check_layout(origin: &Origin) -> Result<()> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    let Some(bytes) = origin.read("oci-layout", "oci-layout", MANIFEST_BYTES)? else { return Ok(()) };
    let layout: Layout = crate::manifest::json("oci-layout", &bytes)?;
    if layout.image_layout_version.starts_with("1.") {
        return Ok(());
    }
    Err(ImageError::malformed("oci-layout", format!("its version is {:?}, not 1", layout.image_layout_version)))
}

fn plan_layout(origin: &Origin, bytes: &[u8], wanted: &Platform) -> Result<Vec<ImagePlan>> {
    let Document::Index(descriptors) = Document::parse("index.json", bytes, "")? else {
        return Err(ImageError::malformed("index.json", "it is not an index"));
    };
    if descriptors.len() > IMAGES {
        return Err(ImageError::TooLarge { what: "index.json".into(), limit: IMAGES as u64, unit: "images" });
    }
    let mut search = Search { documents: origin, wanted, available: Vec::new() };
    let mut plans: Vec<ImagePlan> = Vec::new();
    for group in group_by_name(origin, descriptors) {
        search.available.clear();
        let found = search.group(&group)?;
        if found.is_empty() && group.name.is_some() {
            return Err(search.nothing(group.name.as_deref()));
        }
        for plan in found {
            match plans.iter_mut().find(|p| p.config_digest == plan.config_digest) {
                Some(same) => same.names.extend(plan.names),
                None => plans.push(plan),
            }
        }
    }
    if plans.is_empty() {
        return Err(search.nothing(None));
    }
    for plan in &mut plans {
        plan.names.sort();
        plan.names.dedup();
    }
    Ok(plans)
}

/// Descriptors of one name are one image, for several platforms perhaps. Those without a name each stand for
/// themselves.
struct Group {
    name: Option<String>,
    descriptors: Vec<Descriptor>,
}

fn group_by_name(origin: &Origin, descriptors: Vec<Descriptor>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for descriptor in descriptors.into_iter().filter(Descriptor::leads_to_image) {
        let name = name_of(&descriptor, origin.title());
        match groups.iter_mut().find(|g| g.name == name) {
            Some(group) => group.descriptors.push(descriptor),
            None => groups.push(Group { name, descriptors: vec![descriptor] }),
        }
    }
    groups
}

/// The name in a descriptor's annotations.
///
/// `io.containerd.image.name` is a complete one. `org.opencontainers.image.ref.name` is a name or just a tag, by
/// whose writer it was: with a slash or a colon it is a name; `latest` and what begins like a version is a tag, of a
/// repository called like the file or directory; any other word is a name.
fn name_of(descriptor: &Descriptor, title: Option<&str>) -> Option<String> {
    let complete = |text: &str| Reference::parse(text).ok().map(|r| r.to_string());
    if let Some(name) = descriptor.annotations.get(CONTAINERD_NAME).and_then(|n| complete(n)) {
        return Some(name);
    }
    let name = descriptor.annotations.get(REF_NAME)?;
    let is_tag = || {
        let digits = name.strip_prefix('v').unwrap_or(name);
        name == "latest" || digits.starts_with(|c: char| c.is_ascii_digit())
    };
    if name.contains(['/', ':']) || !is_tag() {
        return complete(name);
    }
    complete(&format!("{}:{name}", title?))
}

/// Finds the image in an index that somebody else's `documents` hold.
pub(crate) struct Search<'a> {
    pub(crate) documents: &'a dyn Documents,
    pub(crate) wanted: &'a Platform,
    /// Platforms that were passed over.
    pub(crate) available: Vec<String>,
}

impl Search<'_> {
    pub(crate) fn nothing(&self, name: Option<&str>) -> ImageError {
        if self.available.is_empty() {
            return ImageError::malformed(self.documents.label(), "its index names no image");
        }
        let image = name.map_or(self.documents.label(), familiar).to_owned();
        let mut available = self.available.clone();
        available.sort();
        available.dedup();
        ImageError::Platform { image, wanted: self.wanted.to_string(), available }
    }

    fn group(&mut self, group: &Group) -> Result<Vec<ImagePlan>> {
        let mut found = Vec::new();
        for descriptor in &group.descriptors {
            if let Some(mut plan) = self.follow(descriptor, INDEX_DEPTH)? {
                plan.names.extend(group.name.clone());
                found.push(plan);
                if group.name.is_some() {
                    break;
                }
            }
        }
        found.iter_mut().for_each(ImagePlan::label_layers);
        Ok(found)
    }

    /// The image behind a descriptor, if it is for the wanted platform.
    pub(crate) fn follow(&mut self, descriptor: &Descriptor, depth: usize) -> Result<Option<ImagePlan>> {
        if let Some(platform) = descriptor.platform.as_ref().filter(|p| !p.suits(self.wanted)) {
            self.available.push(platform.to_string());
            return Ok(None);
        }
        let what = format!("manifest {}", descriptor.digest);
        let bytes = self.documents.manifest(descriptor, &what)?;
        match Document::parse(&what, &bytes, &descriptor.media_type)? {
            Document::Index(_) if depth == 0 => {
                let what = format!("index {}", descriptor.digest);
                Err(ImageError::TooLarge { what, limit: INDEX_DEPTH as u64, unit: "indexes within one another" })
            }
            Document::Index(inner) => {
                for descriptor in inner.iter().filter(|d| d.leads_to_image()) {
                    if let Some(plan) = self.follow(descriptor, depth - 1)? {
                        return Ok(Some(plan));
                    }
                }
                Ok(None)
            }
            Document::Manifest { config, layers } => self.image((descriptor.digest, bytes), &config, &layers),
        }
    }

    fn image(
        &mut self,
        manifest: (Digest, Vec<u8>),
        config: &Descriptor,
        layers: &[Descriptor],
    ) -> Result<Option<ImagePlan>> {
        let what = format!("configuration {}", config.digest);
        let bytes = self.documents.config(config, &what)?;
        let configuration = Configuration::parse(&what, &bytes)?;
        if !configuration.platform.suits(self.wanted) {
            self.available.push(configuration.platform.to_string());
            return Ok(None);
        }
        check_count(&what, layers.len(), configuration.diff_ids.len())?;
        let plan = |(index, (layer, diff_id)): (usize, (&Descriptor, &Digest))| {
            let what = layer_label(index, "the image", &layer.digest);
            check_type(&what, &layer.media_type)?;
            let source = self.documents.layer(layer, &what)?;
            let media_type = Some(layer.media_type.clone()).filter(|t| !t.is_empty());
            Ok(LayerPlan { index, what, diff_id: *diff_id, blob: Some(layer.digest), media_type, source })
        };
        let layers = layers.iter().zip(&configuration.diff_ids).enumerate().map(plan).collect::<Result<_>>()?;
        Ok(Some(ImagePlan {
            names: Vec::new(),
            digests: Vec::new(),
            manifest: Some(manifest),
            config_digest: config.digest,
            config: bytes,
            platform: configuration.platform,
            created: configuration.created,
            layers,
        }))
    }
}

pub(crate) fn layer_label(index: usize, image: &str, digest: &Digest) -> String {
    format!("layer {} of {image} ({digest})", index + 1)
}

pub(crate) fn check_count(what: &str, layers: usize, diff_ids: usize) -> Result<()> {
    if layers == diff_ids {
        return Ok(());
    }
    Err(ImageError::malformed(what, format!("it has {diff_ids} diff ids for {layers} layers")))
}

fn check_type(what: &str, media_type: &str) -> Result<()> {
    match LayerType::of(media_type) {
        LayerType::Tar => Ok(()),
        LayerType::Compression(compression) => Err(ImageError::Compression { what: what.to_owned(), compression }),
        LayerType::Other => {
            Err(ImageError::MediaType { what: what.to_owned(), media_type: media_type.chars().take(200).collect() })
        }
    }
}

/// The digest that a path in an archive promises, as in `blobs/sha256/<hex>`.
pub(crate) fn promised_digest(name: &str) -> Option<Digest> {
    let hex = name.rsplit('/').next()?;
    Digest::from_hex(hex).ok().filter(|digest| blob_name(digest) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_annotations() {
        let name = |pairs: &[(&str, &str)], title: Option<&str>| {
            let annotations = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let (digest, media_type) = (Digest::of(b""), String::new());
            name_of(&Descriptor { media_type, digest, size: 0, annotations, platform: None }, title)
        };
        let busybox = Some("docker.io/library/busybox:latest".to_owned());
        assert_eq!(name(&[(CONTAINERD_NAME, "docker.io/library/busybox:latest"), (REF_NAME, "latest")], None), busybox);
        assert_eq!(name(&[(REF_NAME, "busybox:latest")], Some("dir")), busybox);
        assert_eq!(name(&[(REF_NAME, "latest")], Some("busybox")), busybox);
        assert_eq!(name(&[(REF_NAME, "busybox")], Some("dir")), busybox);
        let versioned = Some("docker.io/library/dir:v1.36".to_owned());
        assert_eq!(name(&[(REF_NAME, "v1.36")], Some("dir")), versioned);
        assert_eq!(name(&[(REF_NAME, "latest")], None), None);
        assert_eq!(name(&[(REF_NAME, "a b/c")], None), None);
        assert_eq!(name(&[], Some("dir")), None);
    }
}
