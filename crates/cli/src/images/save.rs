//! `coracle save`.

use engine::Engine;

use crate::{images::flags::SaveFlags, output::file};

pub(crate) fn save(engine: &Engine, flags: &SaveFlags) -> anyhow::Result<()> {
    file::write_archive(flags.output.as_deref(), |out| Ok(engine.images().save(&flags.images, out)?))
}
