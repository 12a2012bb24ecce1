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
    /// Names or ids of containers or images
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// json (one object a line), or a template, as in '{{.Id}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<InspectFormat>,
    /// Look for nothing else
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<InspectKind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InspectKind {
    Container,
    Image,
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
}

/// Shows all that there are, and complains about the others.
pub(crate) fn inspect(engine: &Engine, flags: &InspectFlags) -> anyhow::Result<u8> {
    let (found, code) = report::each(&flags.names, |name| match flags.kind {
        Some(InspectKind::Container) => Ok(engine.inspect(name, false)?),
        Some(InspectKind::Image) => images::inspect::inspected(engine, name),
        None => inspected(engine, name),
    });
    format::to_stdout(|out| format::write_things(out, flags.format.as_ref(), &found))?;
    Ok(code)
}

/// A container of that name, else an image.
fn inspected(engine: &Engine, name: &str) -> anyhow::Result<Value> {
    match engine.inspect(name, false) {
        Ok(value) => return Ok(value),
        Err(engine::Error::State(StateError::NoSuchContainer { .. })) => {}
        Err(error) => return Err(error.into()),
    }
    images::inspect::inspected(engine, name).map_err(|error| match error.downcast_ref() {
        Some(ImageError::NoSuchImage { .. }) => {
            let hint = "`coracle ps -a` and `coracle images` list what there is";
            Refusal::new(format!("no such container or image: {name}"), hint).into()
        }
        _ => error,
    })
}

/// As [`inspect`], containers alone.
pub(crate) fn inspect_containers(engine: &Engine, flags: &ContainerInspectFlags) -> anyhow::Result<u8> {
    let (found, code) = report::each(&flags.names, |name| Ok(engine.inspect(name, false)?));
    format::to_stdout(|out| format::write_things(out, flags.format.as_ref(), &found))?;
    Ok(code)
}
