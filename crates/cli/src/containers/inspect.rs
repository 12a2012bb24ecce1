//! `coracle inspect`.

use clap::{Args, ValueEnum};
use engine::{Engine, StateError, image::ImageError};
use serde_json::Value;

use crate::{
    images,
    output::{
        format::{self, InspectFormat},
        report::{self, Refusal},
    },
};

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] NAME...")]
pub(crate) struct InspectFlags {
    /// Names or ids of containers, images or volumes
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// json (one object a line), or a template, as in '{{.Id}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<InspectFormat>,
    /// Count what containers take on disk
    #[arg(short, long)]
    pub(crate) size: bool,
    /// Look for nothing else
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<InspectKind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InspectKind {
    Container,
    Image,
    Volume,
}

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] CONTAINER...")]
pub(crate) struct ContainerInspectFlags {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
    /// json (one object a line), or a template, as in '{{.Id}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<InspectFormat>,
    /// Count what they take on disk
    #[arg(short, long)]
    pub(crate) size: bool,
}

/// Shows all that there are, and complains about the others.
pub(crate) fn inspect(engine: &Engine, flags: &InspectFlags) -> anyhow::Result<u8> {
    let (found, code) = report::each(&flags.names, |name| match flags.kind {
        Some(InspectKind::Container) => Ok(engine.inspect(name, flags.size)?),
        Some(InspectKind::Image) => images::inspect::inspected(engine, name),
        Some(InspectKind::Volume) => Ok(engine.inspect_volume(name)?),
        None => inspected(engine, name, flags.size),
    });
    format::to_stdout(|out| format::write_things(out, flags.format.as_ref(), &found))?;
    Ok(code)
}

/// A container of that name, else an image, else a volume.
fn inspected(engine: &Engine, name: &str, size: bool) -> anyhow::Result<Value> {
    match engine.inspect(name, size) {
        Err(engine::Error::State(StateError::NoSuchContainer { .. })) => {}
        found => return Ok(found?),
    }
    match images::inspect::inspected(engine, name) {
        Err(error) if is_no_such_image(&error) => {}
        found => return found,
    }
    match engine.inspect_volume(name) {
        Err(engine::Error::State(StateError::NoSuchVolume { .. }) | engine::Error::Mount(_)) => {
            let hint = "`coracle ps -a`, `coracle images` and `coracle volume ls` list what there is";
            Err(Refusal::new(format!("no such object: {name}"), hint).into())
        }
        found => Ok(found?),
    }
}

/// An image that is not there, or cannot be: a volume's name may be no image's.
fn is_no_such_image(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ImageError::NoSuchImage { .. } | ImageError::Reference(_)))
}

/// As [`inspect`], containers alone.
pub(crate) fn inspect_containers(engine: &Engine, flags: &ContainerInspectFlags) -> anyhow::Result<u8> {
    let (found, code) = report::each(&flags.names, |name| Ok(engine.inspect(name, flags.size)?));
    format::to_stdout(|out| format::write_things(out, flags.format.as_ref(), &found))?;
    Ok(code)
}
