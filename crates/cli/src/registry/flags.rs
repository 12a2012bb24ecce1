//! The flags of the commands that talk to registries.

use clap::{Args, ValueEnum};

use crate::{
    images::platform::Asked,
    output::progress::{self, ProgressFlags},
};

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] NAME[:TAG|@DIGEST]", after_help = progress::HELP)]
pub(crate) struct PullFlags {
    /// What to pull; docker.io, library/ and :latest may be left out
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub(crate) name: String,
    /// Take the image for this platform, as in linux/amd64
    #[arg(long, value_name = "PLATFORM", default_value = "", hide_default_value = true)]
    pub(crate) platform: Asked,
    /// Not supported: tags are pulled one by one
    #[arg(short, long, hide = true)]
    pub(crate) all_tags: bool,
    /// Print nothing but the full name
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) progress: ProgressFlags,
}

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] NAME[:TAG]", after_help = progress::HELP)]
pub(crate) struct PushFlags {
    /// A name of an image that is here; it says which registry gets it
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) name: String,
    /// Not supported: tags are pushed one by one
    #[arg(short, long, hide = true)]
    pub(crate) all_tags: bool,
    /// Print nothing but the full name
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) progress: ProgressFlags,
}

/// When `run` pulls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    Always,
    #[default]
    Missing,
    Never,
}

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] [SERVER]")]
pub(crate) struct LoginFlags {
    /// The registry, as it stands in names of images; docker.io if not given
    #[arg(value_name = "SERVER")]
    pub(crate) server: Option<String>,
    /// User
    #[arg(short, long, value_name = "USER")]
    pub(crate) username: Option<String>,
    /// Password or token; other users of this host can see it while this runs
    #[arg(short, long, value_name = "SECRET", conflicts_with = "password_stdin", allow_hyphen_values = true)]
    pub(crate) password: Option<String>,
    /// Take the password from standard input
    #[arg(long, requires = "username")]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Args)]
#[command(override_usage = "[SERVER]")]
pub(crate) struct LogoutFlags {
    /// The registry, as it stands in names of images; docker.io if not given
    #[arg(value_name = "SERVER")]
    pub(crate) server: Option<String>,
}
