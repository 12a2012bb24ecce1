//! An image of a container's image and what the container changed.

use std::io;

use serde_json::{Map, Value, json};
use state::ContainerRecord;

use super::CommitRequest;
use super::archive::Archive;
use super::changes::{Item, What, changes};
use super::error::FilesError;
use super::path_of;
use super::view::{View, join};
use crate::{Engine, create::Spec, environment, error::Error};

/// Of names that mean something in a layer: what is below is gone, everything in this directory is gone.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Nobody is told how far it is.
struct Quiet;

impl image::Progress for Quiet {
    fn event(&self, _: image::Event<'_>) {}
}

impl Engine {
    /// Makes an image of a container's image and what it changed; returns the image's id.
    ///
    /// The layer depends on what is in it alone, so that the same changes give the same layer. Where nothing changed
    /// there is none.
    ///
    /// # Errors
    ///
    /// As for [`Engine::diff`], and [`image::ImageError`].
    pub fn commit(&self, name: &str, request: &CommitRequest) -> Result<String, Error> {
        self.with_view(name, |view, record| {
            let base = self.images().resolve(&record.image_id)?;
            let items = changes(view)?;
            check(view, &items)?;
            let config = self.images().inspect(&base)?.config;
            let request = image::CommitRequest {
                name: request.reference.clone(),
                config: container_config(config, record),
                changes: request.changes.clone(),
                author: request.author.clone(),
                message: request.message.clone(),
                created_by: command(record),
                created: None,
            };
            let write: Box<image::WriteLayer<'_>> = Box::new(|out| {
                let mut archive = Archive::new(view, out);
                items.iter().try_for_each(|item| member(view, &mut archive, item))?;
                archive.finish()?;
                Ok(())
            });
            let is_empty = !items.iter().any(|item| item.what != What::Hidden);
            let committed = self.images().commit(&base, &request, (!is_empty).then_some(write), &Quiet)?;
            let told = [
                ("comment", request.message.clone()),
                ("imageID", committed.id.clone()),
                ("imageRef", committed.names.first().cloned().unwrap_or_default()),
            ];
            self.tell_of_files(record, "commit", &told);
            Ok(committed.id)
        })
    }
}

/// A change as members of a layer (OCI image-spec, `layer.md`).
fn member<W: io::Write>(view: &View<'_>, archive: &mut Archive<'_, '_, W>, item: &Item) -> Result<(), FilesError> {
    match item.what {
        What::Hidden => Ok(()),
        What::Opaque => archive.mark(&join(&item.path, OPAQUE)),
        What::Deleted => {
            let (directory, name) = split(&item.path);
            archive.mark(&join(directory, &[WHITEOUT, name].concat()))
        }
        What::Inode { number, .. } => {
            let inode = view.disk(view.disk.inode(number))?;
            let node = view.node(&item.path, inode, None)?;
            let name = if item.path.is_empty() { b"." } else { &item.path[..] };
            archive.node(name, &item.path, &node)
        }
    }
}

/// Names that would mean something else in a layer. Better to say so before anything is written.
fn check(view: &View<'_>, items: &[Item]) -> Result<(), FilesError> {
    let is_mark = |item: &&Item| matches!(item.what, What::Inode { .. }) && split(&item.path).1.starts_with(WHITEOUT);
    match items.iter().find(is_mark) {
        Some(item) => Err(FilesError::NotForArchives {
            container: view.container.to_owned(),
            path: path_of(&item.path),
            problem: "in a layer, a name that begins with .wh. says that something is gone",
        }),
        None => Ok(()),
    }
}

/// Directory and name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

fn spec(record: &ContainerRecord) -> Option<Spec> {
    serde_json::from_value(record.spec.clone()).ok()
}

/// What the container ran, as its history will show it.
fn command(record: &ContainerRecord) -> String {
    spec(record).map(|spec| spec.resolved.argv.join(" ")).unwrap_or_default()
}

/// How containers of the new image run: as this one, as far as that is part of an image.
fn container_config(image: Value, record: &ContainerRecord) -> Value {
    let mut config = match image {
        Value::Object(config) => config,
        _ => Map::new(),
    };
    // Triggers are for the builder that used the image.
    config.remove("OnBuild");
    let Some(Spec { resolved, request, .. }) = spec(record) else { return Value::Object(config) };
    // Without what every container is given anew, such as its host name.
    let env = config.get("Env").and_then(|env| serde_json::from_value(env.clone()).ok()).unwrap_or_default();
    let env = environment::merge(env, &request.env);
    let (entrypoint, cmd) = resolved.argv.split_at(resolved.entrypoint_words.min(resolved.argv.len()));
    let texts = [
        ("User", Some(resolved.user.clone())),
        ("WorkingDir", Some(resolved.working_dir.clone()).filter(|path| path != "/")),
    ];
    for (key, words) in [("Entrypoint", entrypoint), ("Cmd", cmd), ("Env", &env)] {
        config.remove(key);
        if !words.is_empty() {
            config.insert(key.to_owned(), json!(words));
        }
    }
    for (key, text) in texts {
        config.remove(key);
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            config.insert(key.to_owned(), json!(text));
        }
    }
    if !resolved.labels.is_empty() {
        config.insert("Labels".to_owned(), json!(resolved.labels));
    }
    if let Some(signal) = request.stop_signal.filter(|signal| !signal.is_empty()) {
        config.insert("StopSignal".to_owned(), json!(signal));
    }
    if let Some(health) = resolved.health {
        config.insert("Healthcheck".to_owned(), json!(health));
    }
    Value::Object(config)
}
