//! What a container is called, where it comes from, how long it lives, what is kept of its output.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use engine::{
    names,
    request::{self, RestartPolicy, parse_hostname},
};

use crate::{images::platform::Asked, registry::flags::PullPolicy};

#[derive(Debug, Args)]
#[command(next_help_heading = "Container")]
pub(crate) struct ContainerFlags {
    /// Name of the container
    #[arg(long, value_parser = name)]
    pub(crate) name: Option<String>,
    /// Remove the container when it has ended
    #[arg(long)]
    pub(crate) rm: bool,
    /// Start it again when it ends: no, on-failure[:MAX], always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no", hide_default_value = true)]
    pub(crate) restart: RestartPolicy,
    /// Host name inside
    #[arg(short = 'h', long, value_name = "NAME", value_parser = hostname)]
    pub(crate) hostname: Option<String>,
    /// Set a label
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
    /// Set the labels in a file, one a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) label_file: Vec<PathBuf>,
    /// Note something for other programs; it is kept and shown
    #[arg(long, value_name = "KEY=VALUE", value_parser = annotation)]
    pub(crate) annotation: Vec<(String, String)>,
    /// Write the container's id to a new file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) cidfile: Option<PathBuf>,
    /// The image must be for this platform, as in linux/amd64
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    pub(crate) platform: Option<String>,
    /// Pull the image: always, if it is missing (as without this), or never
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "missing",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub(crate) pull: PullPolicy,
    /// Say nothing of the pull
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Where output is kept: json-file (as without this), or none
    #[arg(long, value_name = "DRIVER")]
    pub(crate) log_driver: Option<String>,
    /// Bounds of the kept output: max-size=SIZE of a file, max-file=N files
    #[arg(long, value_name = "NAME=VALUE", value_parser = log_option)]
    pub(crate) log_opt: Vec<(String, String)>,
    /// What the container's network is; there is none but none
    #[arg(long, alias = "net", value_name = "none", value_parser = network)]
    pub(crate) network: Option<String>,
}

/// Empty texts are as if they were not there, for scripts that pass a variable: [`crate::containers::resolve`] drops
/// them.
fn name(text: &str) -> Result<String, names::InvalidName> {
    if text.is_empty() { Ok(String::new()) } else { names::check_name(text).map(|()| text.to_owned()) }
}

fn hostname(text: &str) -> Result<String, request::OptionError> {
    if text.is_empty() { Ok(String::new()) } else { parse_hostname(text) }
}

fn platform(text: &str) -> Result<String, engine::image::PlatformError> {
    text.parse::<Asked>().map(|asked| asked.0.map(|platform| platform.to_string()).unwrap_or_default())
}

/// A text that is no label, no annotation, or none of the options of logs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PairError {
    /// A label without a key.
    #[error("a label is KEY=VALUE or KEY")]
    Label,
    /// An annotation without a key or a value.
    #[error("an annotation is KEY=VALUE")]
    Annotation,
    /// An option without a value.
    #[error("an option of logs is NAME=VALUE")]
    LogOption,
    /// A network.
    #[error("containers have no network yet: only `none` is possible, and it is what they have without this option")]
    Network,
}

/// `KEY=VALUE`, or `KEY` for an empty value.
pub(crate) fn label(text: &str) -> Result<(String, String), PairError> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() { Err(PairError::Label) } else { Ok((key.to_owned(), value.to_owned())) }
}

fn annotation(text: &str) -> Result<(String, String), PairError> {
    pair(text).ok_or(PairError::Annotation)
}

fn log_option(text: &str) -> Result<(String, String), PairError> {
    pair(text).ok_or(PairError::LogOption)
}

fn network(text: &str) -> Result<String, PairError> {
    if text == "none" { Ok(text.to_owned()) } else { Err(PairError::Network) }
}

fn pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs() {
        let owned = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(label("a=b=c"), Ok(owned("a", "b=c")));
        assert_eq!(label("a"), Ok(owned("a", "")));
        assert_eq!(label("=x"), Err(PairError::Label));
        assert_eq!(annotation("a="), Ok(owned("a", "")));
        assert_eq!(annotation("a"), Err(PairError::Annotation));
        assert_eq!(log_option("max-size=1m"), Ok(owned("max-size", "1m")));
        assert_eq!(log_option("max-size"), Err(PairError::LogOption));
        assert!(network("none").is_ok() && network("host").is_err());
    }
}
