//! The commands about images, a file each; their [`flags`], and [`platform`]s as people write them.

pub(crate) mod flags;
pub(crate) mod history;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod load;
pub(crate) mod names;
pub(crate) mod platform;
pub(crate) mod save;
pub(crate) mod verify;

use clap::Subcommand;

use crate::{
    Invocation,
    registry::{
        flags::{PullFlags, PushFlags},
        transfer,
    },
    system::disk,
};

/// What can be done with images, as `coracle VERB` and as `coracle image VERB`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// Pull an image from a registry
    Pull(PullFlags),
    /// Push an image to a registry
    Push(PushFlags),
    /// Load images from an archive or an OCI layout
    Load(flags::LoadFlags),
    /// Save images to an archive
    Save(flags::SaveFlags),
    /// Make an image of a root file system's archive
    Import(flags::ImportFlags),
    /// Show how an image was made
    History(flags::HistoryFlags),
    /// Give an image one more name
    Tag(flags::TagFlags),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    #[command(flatten)]
    Verb(ImageVerb),
    /// Show everything about images, as JSON
    Inspect(flags::ImageInspectFlags),
    /// List images
    #[command(visible_alias = "list")]
    Ls(flags::ImagesFlags),
    /// Remove images that nobody uses
    Prune(flags::PruneFlags),
    /// Remove images
    Rm(flags::RmiFlags),
    /// Read everything again, report what is damaged, and make it again where that can be
    Verify(flags::VerifyFlags),
}

/// Does what a verb says.
pub(crate) fn verb(invocation: &Invocation, verb: &ImageVerb) -> anyhow::Result<()> {
    let engine = invocation.open()?;
    match verb {
        ImageVerb::Pull(flags) => transfer::pull(&engine, flags)?,
        ImageVerb::Push(flags) => transfer::push(&engine, flags)?,
        ImageVerb::Load(flags) => load::load(&engine, flags)?,
        ImageVerb::Save(flags) => save::save(&engine, flags)?,
        ImageVerb::Import(flags) => import::import(&engine, flags)?,
        ImageVerb::History(flags) => history::history(&engine, flags)?,
        ImageVerb::Tag(flags) => names::tag(&engine, flags)?,
    }
    Ok(())
}

/// Does what a command behind `image` says.
pub(crate) fn command(invocation: &Invocation, command: &ImageCommand) -> anyhow::Result<u8> {
    match command {
        ImageCommand::Verb(verb) => self::verb(invocation, verb)?,
        ImageCommand::Inspect(flags) => return inspect::inspect(&invocation.open()?, flags),
        ImageCommand::Ls(flags) => list::list(&invocation.open()?, flags)?,
        ImageCommand::Prune(flags) => disk::prune_images(&invocation.open()?, flags)?,
        ImageCommand::Rm(flags) => return names::remove(&invocation.open()?, flags),
        ImageCommand::Verify(flags) => return verify::verify(&invocation.open()?, flags),
    }
    Ok(0)
}
