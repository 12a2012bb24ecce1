//! `coracle tag` and `rmi`: names of images come and go, and images with the last of theirs.

use std::io::{self, Write as _};

use engine::{Engine, image::familiar};

use crate::{
    images::flags::{RmiFlags, TagFlags},
    output::report,
};

pub(crate) fn tag(engine: &Engine, flags: &TagFlags) -> anyhow::Result<()> {
    engine.images().tag(&flags.source, &flags.target)?;
    Ok(())
}

/// Removes all that can be removed, and complains about the others.
pub(crate) fn remove(engine: &Engine, flags: &RmiFlags) -> anyhow::Result<u8> {
    let mut out = io::stdout().lock();
    let (_, code) = report::each(&flags.images, |name| {
        let removed = engine.images().remove(name, flags.force)?;
        for name in &removed.untagged {
            writeln!(out, "Untagged: {}", familiar(name))?;
        }
        if let Some(id) = &removed.deleted {
            writeln!(out, "Deleted: {id}")?;
        }
        Ok(())
    });
    Ok(code)
}
