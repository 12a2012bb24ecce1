//! The flags of the commands about images.

use std::path::PathBuf;

use clap::Args;
use engine::image::Platform;

use crate::{
    format::{InspectFormat, ListFormat},
    progress::{self, ProgressFlags},
};

#[derive(Debug, Args)]
pub(crate) struct ListFlags {
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Do not shorten anything
    #[arg(long)]
    pub(crate) no_trunc: bool,
    #[command(flatten)]
    pub(crate) format: FormatFlag,
}

#[derive(Debug, Args)]
pub(crate) struct FormatFlag {
    /// table, json (one object a line), or a template, as in '{{.ID}}' or 'table {{.ID}}\t{{.Size}}'
    #[arg(long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub(crate) format: ListFormat,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesFlags {
    /// Only images of this repository, or this one; * and ? stand for parts of names
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) name: Option<String>,
    /// Also intermediate images; there are none here, so that this changes nothing
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Show digests
    #[arg(long)]
    pub(crate) digests: bool,
    #[command(flatten)]
    pub(crate) list: ListFlags,
}

#[derive(Debug, Args)]
#[command(override_usage = "coracle image inspect [OPTIONS] NAME...")]
pub(crate) struct ImageInspectFlags {
    /// Names or ids
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// json (one object a line), or a template, as in '{{.Id}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<InspectFormat>,
}

#[derive(Debug, Args)]
#[command(override_usage = "coracle rmi [OPTIONS] IMAGE...")]
pub(crate) struct RmiFlags {
    /// Also images with several names
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
#[command(override_usage = "coracle tag IMAGE[:TAG] NAME[:TAG]")]
pub(crate) struct TagFlags {
    /// Name or id of an image
    #[arg(value_name = "IMAGE[:TAG]")]
    pub(crate) source: String,
    /// The name that it gets too; an image that had it loses it
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) target: String,
}

#[derive(Debug, Args)]
#[command(after_help = progress::HELP)]
pub(crate) struct LoadFlags {
    /// An OCI layout directory, an archive of one, or of `docker save`; - is standard input
    #[arg(short, long, value_name = "FILE|DIR|-", default_value = "-", hide_default_value = true)]
    pub(crate) input: PathBuf,
    /// Take the image for this platform, as in linux/amd64
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<Platform>,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) progress: ProgressFlags,
}
