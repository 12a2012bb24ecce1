//! `coracle create`.

use std::io::{self, Write as _};

use engine::{CreateOptions, Engine};

use crate::{
    Invocation,
    containers::{flags::CreateFlags, id_file::IdFile, resolve},
    output::report,
    registry::transfer::PullForRun,
};

/// Makes a container and prints its id.
pub(crate) fn create(invocation: &Invocation, flags: &CreateFlags) -> anyhow::Result<()> {
    let request = resolve::request(&flags.new)?;
    let place = invocation.place()?;
    let id_file = flags.new.container.cidfile.as_deref().map(IdFile::create).transpose()?;
    let options = CreateOptions { accelerator: place.accelerator };
    let engine: Engine = place.open()?;
    let pull = PullForRun::of(&request, &flags.new.container);
    let created = pull.around(&engine, || engine.create(&request, &options))?;
    if let Some(file) = id_file {
        file.write(&created.id)?;
    }
    created.notice.iter().for_each(|notice| report::note(notice));
    created.warnings.iter().for_each(|warning| report::warn(warning));
    Ok(writeln!(io::stdout(), "{}", created.id)?)
}
