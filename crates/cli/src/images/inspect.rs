//! `coracle image inspect`.

use engine::Engine;
use serde_json::Value;

use crate::{
    images::flags::ImageInspectFlags,
    output::{format, report},
};

/// Shows all that there are, and complains about the others.
pub(crate) fn inspect(engine: &Engine, flags: &ImageInspectFlags) -> anyhow::Result<u8> {
    let (found, code) = report::each(&flags.names, |name| inspected(engine, name));
    format::to_stdout(|out| format::write_things(out, flags.format.as_ref(), &found))?;
    Ok(code)
}

/// An image as `image inspect` shows it.
pub(crate) fn inspected(engine: &Engine, name: &str) -> anyhow::Result<Value> {
    let images = engine.images();
    Ok(serde_json::to_value(images.inspect(&images.resolve(name)?)?)?)
}
