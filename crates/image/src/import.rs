//! Importing: the archive of a root file system becomes an image of one layer.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use state::{ImageRecord, LayerRecord};
use store::{Digest, LayerFiles, Lease};

use crate::changes::Settings;
use crate::convert::Converter;
use crate::manifest::image_configuration;
use crate::new_manifest::{Described, TAR_TYPE, new_manifest};
use crate::{Event, ImageError, Images, LoadSource, Loaded, Platform, Progress, Reference, Result, clock, familiar};

/// What an imported image is to be, beside its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportRequest {
    /// The name that it gets; completed as Docker does.
    pub name: Option<String>,
    /// Instructions of a Dockerfile that change its configuration: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD,
    /// STOPSIGNAL, USER, VOLUME and WORKDIR.
    pub changes: Vec<String>,
    /// What its history is to say. Where it came from, if nothing else.
    pub message: Option<String>,
    /// What it is for; this host's, if nothing else.
    pub platform: Option<Platform>,
    /// When it was made, in ns since 1970. Otherwise `SOURCE_DATE_EPOCH` says it, or it was now.
    pub created: Option<i64>,
}

impl Images {
    /// Makes an image of a root file system's tar archive, plain or compressed with gzip or zstd.
    ///
    /// The same archive with the same request gives the same image, if it says when it was made.
    ///
    /// # Errors
    ///
    /// [`ImageError::Change`] and [`ImageError::Reference`] before anything is read; what is wrong with the archive, or
    /// why it cannot be stored. Nothing is left then.
    pub fn import(&self, source: LoadSource, request: &ImportRequest, progress: &dyn Progress) -> Result<Loaded> {
        let name = request.name.as_deref().map(name_of).transpose()?;
        let settings = Settings::from_changes(&request.changes)?;
        let created = created(request.created)?;
        let origin = label_of(&source);
        self.under_lease(|lease| {
            let layer = self.import_layer(lease, &origin, open(source)?, progress)?;
            let message = request.message.clone().unwrap_or_else(|| format!("Imported from {origin}"));
            let platform = request.platform.clone().unwrap_or_else(Platform::host);
            let config = configuration(&layer.diff_id, &settings, &platform, created, &message);
            let imported = self.record(lease, name, &layer, &config, &platform, progress)?;
            self.tell("import", &imported.id, imported.names.first().unwrap_or(&imported.id));
            Ok(imported)
        })
    }

    fn import_layer(
        &self,
        lease: &Lease,
        origin: &str,
        stream: Box<dyn Read + Send>,
        progress: &dyn Progress,
    ) -> Result<LayerFiles> {
        let cancel = AtomicBool::new(false);
        let converter = Converter { store: &self.store, lease, options: &self.options, cancel: &cancel, progress };
        converter.stream(origin, stream)
    }

    fn record(
        &self,
        lease: &Lease,
        name: Option<String>,
        layer: &LayerFiles,
        config: &Value,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<Loaded> {
        let config = config.to_string();
        let id = Digest::of(config.as_bytes());
        let what = format!("configuration {id}");
        image_configuration(&what, config.as_bytes())?;
        let diff_id = layer.diff_id.to_string();
        let size = layer.facts.unpacked_length;
        let described = Described { media_type: TAR_TYPE.to_owned(), digest: diff_id.clone(), size };
        let manifest = new_manifest(&id, config.len() as u64, [described]);
        progress.event(Event::Assembling);
        let label = name.as_deref().map_or_else(|| id.to_string(), |name| familiar(name).to_owned());
        let root = self.assemble(&label, std::slice::from_ref(layer), lease)?;
        let manifest_digest = self.store.ingest_blob(lease, &mut &manifest[..], None, None)?;
        self.store.ingest_blob(lease, &mut config.as_bytes(), Some(&id), None)?;
        let parsed: Value = crate::manifest::json(&what, config.as_bytes())?;
        let record = ImageRecord {
            id: id.to_string(),
            names: name.into_iter().collect(),
            digests: Vec::new(),
            manifest_digest: Some(manifest_digest.to_string()),
            layers: vec![LayerRecord {
                blob_digest: Some(diff_id.clone()),
                diff_id,
                blob_size: Some(size),
                media_type: Some(TAR_TYPE.to_owned()),
                data_length: layer.facts.data_length,
                packed_length: layer.facts.packed_length,
            }],
            platform: platform.to_string(),
            created: parsed["created"].as_str().map(str::to_owned),
            loaded_at: clock::now(),
            size,
            root,
        };
        self.state.put_image(&record)?;
        progress.event(Event::Done);
        Ok(Loaded { names: record.names, id: record.id })
    }
}

pub(crate) fn name_of(text: &str) -> Result<String> {
    let reference = Reference::parse(text)?;
    if reference.digest().is_some() {
        let problem = "a name that is given cannot have a digest";
        return Err(crate::ReferenceError { text: text.chars().take(300).collect(), problem }.into());
    }
    Ok(reference.to_string())
}

/// When an image is said to be made. The specification of `SOURCE_DATE_EPOCH`: seconds since 1970, in decimal; what is none is an error.
pub(crate) fn created(asked: Option<i64>) -> Result<i64> {
    if let Some(created) = asked {
        return Ok(created);
    }
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else {
        return Ok(clock::now());
    };
    let seconds = text.to_str().and_then(|text| text.parse::<u32>().ok());
    let problem = "it must be a number of seconds since 1970";
    let seconds = seconds.ok_or_else(|| ImageError::malformed("SOURCE_DATE_EPOCH", problem))?;
    Ok(i64::from(seconds) * 1_000_000_000)
}

fn label_of(source: &LoadSource) -> String {
    match source {
        LoadSource::Path(path) => path.display().to_string(),
        LoadSource::Stream(_) => "the standard input".to_owned(),
    }
}

fn open(source: LoadSource) -> Result<Box<dyn Read + Send>> {
    match source {
        LoadSource::Stream(stream) => Ok(stream),
        LoadSource::Path(path) => {
            let file = File::open(&path).map_err(|e| ImageError::no_such_file(&path, e))?;
            let found = file.metadata().map_err(|e| ImageError::no_such_file(&path, e))?;
            if found.is_dir() {
                let problem = "it is a directory; `tar -C DIRECTORY -c . | coracle import -` imports one";
                return Err(ImageError::malformed(&path.display().to_string(), problem));
            }
            Ok(Box::new(file))
        }
    }
}

/// OCI image-spec, `config.md`.
fn configuration(diff_id: &Digest, settings: &Settings, platform: &Platform, created: i64, message: &str) -> Value {
    let created = clock::rfc3339(created);
    let mut config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "created": created,
        "comment": message,
        "config": settings.to_json(),
        "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]},
        "history": [{"created": created, "comment": message}],
    });
    if let Some(variant) = &platform.variant {
        config["variant"] = json!(variant);
    }
    config
}
