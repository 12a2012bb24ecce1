//! `coracle import`.

use std::io::{self, Write as _};

use engine::{Engine, image::ImportRequest};

use crate::{
    images::{flags::ImportFlags, load},
    output::{
        progress::{Shown, Task},
        report::Refusal,
    },
};

pub(crate) fn import(engine: &Engine, flags: &ImportFlags) -> anyhow::Result<()> {
    if let Some(url) = flags.file.to_str().filter(|text| text.starts_with("http://") || text.starts_with("https://")) {
        let hint = format!("fetch it first, as in `curl -L {url} | coracle import -`");
        return Err(Refusal::new("an archive is not imported from a URL", hint).into());
    }
    let source = load::source(&flags.file, "name an archive, or pipe one in")?;
    let request = ImportRequest {
        name: flags.name.clone(),
        changes: flags.change.clone(),
        message: flags.message.clone(),
        platform: flags.platform.0.clone(),
        created: None,
    };
    let progress = Shown::new(flags.progress.progress, flags.quiet, Task::Load);
    let imported = engine.images().import(source, &request, &progress);
    drop(progress);
    Ok(writeln!(io::stdout(), "{}", imported?.id)?)
}
