//! `coracle load`.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
};

use engine::{
    Engine,
    image::{LoadSource, Loaded, familiar},
};

use crate::{
    images::flags::LoadFlags,
    output::{
        progress::{Shown, Task},
        report::Refusal,
    },
};

pub(crate) fn load(engine: &Engine, flags: &LoadFlags) -> anyhow::Result<()> {
    let source = source(&flags.input, "name an archive with -i, or pipe one in")?;
    let progress = Shown::new(flags.progress.progress, flags.quiet, Task::Load);
    let loaded = engine.images().load(source, &progress, flags.platform.0.as_ref());
    drop(progress);
    tell(&loaded?)
}

/// A file, a directory, or standard input, which must not be a terminal.
pub(crate) fn source(input: &Path, hint: &str) -> anyhow::Result<LoadSource> {
    if input != Path::new("-") {
        return Ok(LoadSource::Path(input.to_owned()));
    }
    if io::stdin().is_terminal() {
        return Err(Refusal::new("standard input is a terminal", hint).into());
    }
    Ok(LoadSource::Stream(Box::new(io::stdin())))
}

fn tell(loaded: &[Loaded]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for image in loaded {
        for name in &image.names {
            writeln!(out, "Loaded image: {}", familiar(name))?;
        }
        if image.names.is_empty() {
            writeln!(out, "Loaded image ID: {}", image.id)?;
        }
    }
    Ok(())
}
