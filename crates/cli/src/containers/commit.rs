//! `coracle commit`.

use std::io::{self, Write as _};

use clap::Args;
use engine::{Engine, files::CommitRequest};

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] CONTAINER [NAME[:TAG]]")]
pub(crate) struct CommitFlags {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    /// The name that the image gets
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) name: Option<String>,
    /// Who made it
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) author: Option<String>,
    /// Change its configuration by an instruction of a Dockerfile, as in 'CMD ["sh"]'
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,
    /// What its history is to say
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// Let a running container rest meanwhile; =false to let it go on
    #[arg(
        short,
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
    pub(crate) pause: bool,
}

/// Makes an image of a container and prints its id.
pub(crate) fn commit(engine: &Engine, flags: &CommitFlags) -> anyhow::Result<()> {
    let request = CommitRequest {
        reference: flags.name.clone().filter(|name| !name.is_empty()),
        message: flags.message.clone().unwrap_or_default(),
        author: flags.author.clone().unwrap_or_default(),
        changes: flags.change.clone(),
        pause: flags.pause,
    };
    let id = engine.commit(&flags.container, &request)?;
    Ok(writeln!(io::stdout(), "{id}")?)
}
