//! `coracle completion` and `coracle man`: what shells and manual pages know of the command line, made of its
//! definition.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Command, ValueEnum, ValueHint};

use crate::command_line::definition;

#[derive(Debug, Args)]
#[command(
    override_usage = "SHELL",
    after_help = "bash: coracle completion bash > /etc/bash_completion.d/coracle\n\
                  zsh:  coracle completion zsh > \"${fpath[1]}/_coracle\"\n\
                  fish: coracle completion fish > ~/.config/fish/completions/coracle.fish"
)]
pub(crate) struct CompletionFlags {
    /// For which shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => Self::Bash,
            Shell::Zsh => Self::Zsh,
            Shell::Fish => Self::Fish,
        }
    }
}

#[derive(Debug, Args)]
#[command(override_usage = "DIR")]
pub(crate) struct ManFlags {
    /// Directory to write the pages to; it is made if it is not there
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) directory: PathBuf,
}

/// Prints the completions of a shell.
pub(crate) fn completion(flags: &CompletionFlags) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(clap_complete::Shell::from(flags.shell), &mut shown(&definition()), "coracle", &mut text);
    Ok(io::stdout().write_all(&text)?)
}

/// A command without what is hidden: nobody is to be led to a flag that is refused.
fn shown(command: &Command) -> Command {
    let copy = Command::new(kept(command.get_name())).about(command.get_about().cloned().unwrap_or_default());
    copy.disable_help_flag(command.is_disable_help_flag_set())
        .visible_aliases(command.get_visible_aliases().map(kept).collect::<Vec<_>>())
        .args(command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned())
        .subcommands(command.get_subcommands().filter(|command| !command.is_hide_set()).map(shown))
}

/// Writes a manual page for each command.
pub(crate) fn man(flags: &ManFlags) -> anyhow::Result<()> {
    let directory = &flags.directory;
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let mut whole = definition();
    whole.build();
    pages(&whole, "coracle", directory)
}

/// A definition wants its words for ever; there are not many, and the process ends soon.
fn kept(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

fn pages(command: &Command, name: &str, directory: &Path) -> anyhow::Result<()> {
    let path = directory.join(format!("{name}.1"));
    let mut text = Vec::new();
    let man = clap_mangen::Man::new(command.clone().name(kept(name)).disable_help_subcommand(true)).section("1");
    man.manual("Coracle").source(concat!("coracle ", env!("CARGO_PKG_VERSION"))).render(&mut text)?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    shown.into_iter().try_for_each(|command| pages(command, &format!("{name}-{}", command.get_name()), directory))
}
