//! `coracle pull`, `push`, and the pull before a `run`.

use std::io::{self, Write};

use engine::{
    Engine, RunRequest,
    image::{ImageError, Platform, Pulled, Reference, familiar},
};

use crate::{
    containers::flags::container::ContainerFlags,
    output::{
        progress::{ProgressMode, Shown, Task},
        report::{self, Refusal},
    },
    registry::flags::{PullFlags, PullPolicy, PushFlags},
};

pub(crate) fn pull(engine: &Engine, flags: &PullFlags) -> anyhow::Result<()> {
    if flags.all_tags {
        return Err(one_by_one("pull").into());
    }
    let reference = Reference::parse(&flags.name).map_err(ImageError::from)?;
    let mut out = io::stdout().lock();
    if flags.quiet {
        let pulled = engine.images().pull(&engine.registry_client()?, &reference, flags.platform.0.as_ref(), &())?;
        return Ok(writeln!(out, "{}", pulled.name)?);
    }
    if is_bare(&flags.name, &reference) {
        writeln!(out, "Using default tag: latest")?;
    }
    let pulled = pull_telling(engine, &reference, flags.platform.0.as_ref(), flags.progress.progress, &mut out)?;
    Ok(writeln!(out, "{}", pulled.name)?)
}

/// Pulls, and tells of it in Docker's words.
fn pull_telling(
    engine: &Engine,
    reference: &Reference,
    platform: Option<&Platform>,
    mode: ProgressMode,
    out: &mut dyn Write,
) -> anyhow::Result<Pulled> {
    let client = engine.registry_client()?;
    let which = reference.digest().map(ToString::to_string);
    let which = which.as_deref().or(reference.tag()).unwrap_or_default();
    writeln!(out, "{which}: Pulling from {}", reference.path())?;
    out.flush()?;
    let progress = Shown::new(mode, false, Task::Pull);
    let pulled = engine.images().pull(&client, reference, platform, &progress);
    drop(progress);
    let pulled = pulled?;
    let status = if pulled.is_new { "Downloaded newer image for" } else { "Image is up to date for" };
    writeln!(out, "Digest: {}\nStatus: {status} {}", pulled.digest, familiar(&pulled.name))?;
    Ok(pulled)
}

/// Whether neither tag nor digest was written.
fn is_bare(text: &str, reference: &Reference) -> bool {
    reference.digest().is_none() && !text.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

pub(crate) fn push(engine: &Engine, flags: &PushFlags) -> anyhow::Result<()> {
    if flags.all_tags {
        return Err(one_by_one("push").into());
    }
    let reference = Reference::parse(&flags.name).map_err(ImageError::from)?;
    let mut out = io::stdout().lock();
    if !flags.quiet {
        if is_bare(&flags.name, &reference) {
            writeln!(out, "Using default tag: latest")?;
        }
        writeln!(out, "The push refers to repository [{}]", reference.repository())?;
        out.flush()?;
    }
    let progress = Shown::new(flags.progress.progress, flags.quiet, Task::Push);
    let pushed = engine.images().push(&engine.registry_client()?, &flags.name, &progress);
    drop(progress);
    let pushed = pushed?;
    if flags.quiet {
        return Ok(writeln!(out, "{}", pushed.name)?);
    }
    let tag = reference.tag().unwrap_or_default();
    writeln!(out, "{tag}: digest: {} size: {}", pushed.digest, pushed.size)?;
    if pushed.is_remade {
        report::note(
            "the layers were compressed anew, so that this digest is not the one that the image came with; \
             `\"keep_blobs\": true` in the settings keeps layers as they come",
        );
    }
    Ok(())
}

fn one_by_one(verb: &str) -> Refusal {
    let message = format!("all tags of a repository cannot be {verb}ed at once");
    Refusal::new(message, format!("{verb} them one by one, by name and tag"))
}

/// What `create` and `run` need to know to pull.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PullForRun<'a> {
    image: &'a str,
    platform: Option<&'a str>,
    policy: PullPolicy,
    quiet: bool,
}

impl<'a> PullForRun<'a> {
    pub(crate) fn of(request: &'a RunRequest, flags: &ContainerFlags) -> Self {
        Self { image: &request.image, platform: request.platform.as_deref(), policy: flags.pull, quiet: flags.quiet }
    }

    /// Makes something of the image, which is pulled before where that is asked for, and where it is missing.
    pub(crate) fn around<T>(self, engine: &Engine, make: impl Fn() -> Result<T, engine::Error>) -> anyhow::Result<T> {
        if self.policy == PullPolicy::Always {
            self.pull(engine, &Reference::parse(self.image).map_err(ImageError::from)?)?;
        }
        match make() {
            Err(error) if self.after(engine, &error)? => Ok(make()?),
            made => Ok(made?),
        }
    }

    /// Whether it is worth another try: it failed for an image that was not there, and is now.
    fn after(self, engine: &Engine, error: &engine::Error) -> anyhow::Result<bool> {
        let missing =
            matches!(error, engine::Error::Image(ImageError::NoSuchImage { .. }) | engine::Error::Platform { .. });
        if self.policy != PullPolicy::Missing || !missing {
            return Ok(false);
        }
        let reference = Reference::parse(self.image).map_err(ImageError::from)?;
        if !self.quiet {
            let name = reference.to_string();
            // Standard error that takes nothing cannot be complained about.
            let _ = writeln!(io::stderr(), "Unable to find image '{}' locally", familiar(&name));
        }
        self.pull(engine, &reference)?;
        Ok(true)
    }

    fn pull(self, engine: &Engine, reference: &Reference) -> anyhow::Result<()> {
        let platform = self.platform.map(str::parse::<Platform>).transpose().map_err(engine::Error::from)?;
        if self.quiet {
            engine.images().pull(&engine.registry_client()?, reference, platform.as_ref(), &())?;
        } else {
            pull_telling(engine, reference, platform.as_ref(), ProgressMode::Auto, &mut io::stderr())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_tag() {
        for (text, bare) in [
            ("busybox", true),
            ("busybox:latest", false),
            ("localhost:5000/a", true),
            ("localhost:5000/a:b", false),
            (&format!("a@sha256:{}", "0".repeat(64)), false),
        ] {
            assert_eq!(is_bare(text, &Reference::parse(text).unwrap()), bare, "{text}");
        }
    }
}
