//! The flags of the commands about images.

use std::path::PathBuf;

use clap::Args;

use crate::{
    filters::Filter,
    images::platform::Asked,
    output::{
        format::{InspectFormat, ListFormat},
        progress::{self, ProgressFlags},
    },
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
    /// Only images with dangling=true, reference=PATTERN, before=IMAGE, since=IMAGE, until=TIME, label=KEY[=VALUE]
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<Filter>,
    #[command(flatten)]
    pub(crate) list: ListFlags,
}

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] NAME...")]
pub(crate) struct ImageInspectFlags {
    /// Names or ids
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// json (one object a line), or a template, as in '{{.Id}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<InspectFormat>,
}

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] IMAGE...")]
pub(crate) struct RmiFlags {
    /// Also images with several names
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] IMAGE")]
pub(crate) struct HistoryFlags {
    /// Name or id
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// Sizes and times for people; =false for bytes and dates
    #[arg(
        short = 'H',
        long,
        value_name = "BOOL",
        default_value_t = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub(crate) human: bool,
    #[command(flatten)]
    pub(crate) list: ListFlags,
}

#[derive(Debug, Args)]
pub(crate) struct PruneFlags {
    /// All images without a container, not only those without a name
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Only what has until=TIME, label=KEY[=VALUE] or label!=KEY[=VALUE]; a time is as in 24h or 2026-11-23
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<Filter>,
}

#[derive(Debug, Args)]
pub(crate) struct SystemPruneFlags {
    #[command(flatten)]
    pub(crate) prune: PruneFlags,
    /// Also volumes without a name that no container uses
    #[arg(long)]
    pub(crate) volumes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DfFlags {
    /// Show images, containers and content one by one
    #[arg(short, long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) format: FormatFlag,
}

#[derive(Debug, Args)]
#[command(override_usage = "IMAGE[:TAG] NAME[:TAG]")]
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
    #[arg(long, value_name = "PLATFORM", default_value = "", hide_default_value = true)]
    pub(crate) platform: Asked,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) progress: ProgressFlags,
}

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] IMAGE...")]
pub(crate) struct SaveFlags {
    /// Write to this file, which appears when it is whole; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Names or ids; what is called by its id has no name in the archive
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] FILE|- [NAME[:TAG]]", after_help = progress::HELP)]
pub(crate) struct ImportFlags {
    /// A tar archive of a root file system, gzip or zstd around it is fine; - is standard input
    #[arg(value_name = "FILE|-")]
    pub(crate) file: PathBuf,
    /// The name that the image gets
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) name: Option<String>,
    /// Change its configuration by an instruction of a Dockerfile, as in 'CMD ["sh"]'
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,
    /// What its history is to say
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// What it is for, as in linux/amd64
    #[arg(long, value_name = "PLATFORM", default_value = "", hide_default_value = true)]
    pub(crate) platform: Asked,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) progress: ProgressFlags,
}

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] [IMAGE...]", after_help = progress::HELP)]
pub(crate) struct VerifyFlags {
    /// Names or ids; all images, and what lies beside them, if none is given
    #[arg(value_name = "IMAGE")]
    pub(crate) names: Vec<String>,
    /// Change nothing
    #[arg(long)]
    pub(crate) report_only: bool,
    /// As JSON: {whole, checks: [{kind, digest, images, outcome, problem}], unneeded: [{kind, digest, removed}]}
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) progress: ProgressFlags,
}
