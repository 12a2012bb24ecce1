//! `coracle export`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use engine::Engine;

use crate::output::file;

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] CONTAINER")]
pub(crate) struct ExportFlags {
    /// Write to this file, which appears when it is whole; - is standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
}

pub(crate) fn export(engine: &Engine, flags: &ExportFlags) -> anyhow::Result<()> {
    // Who is not there is known before a file is.
    engine.container(&flags.container)?;
    file::write_archive(flags.output.as_deref(), |out| Ok(engine.export(&flags.container, out)?))
}
