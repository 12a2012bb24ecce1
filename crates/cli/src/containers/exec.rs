//! `coracle exec`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use engine::{Engine, Error, ExecOptions, ExecRequest, keeper::wire::AttachedStreams};

use crate::{
    containers::{attach::Connection, detach_keys::DetachKeys, flags::process::environment_entry, resolve},
    output::report,
    terminal,
};

#[derive(Debug, Args)]
#[command(
    override_usage = "[OPTIONS] CONTAINER COMMAND [ARG...]",
    after_help = "Exit status: the process's own; 128 and the signal's number if one ended it; 127 if there is no \
                  such command, 126 if it cannot be executed."
)]
pub(crate) struct ExecFlags {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    /// Command and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_hint = ValueHint::Other
    )]
    pub(crate) command: Vec<String>,
    /// Do not wait for it
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Keys that leave it running, as in ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    pub(crate) detach_keys: DetachKeys,
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set a variable; a bare NAME takes the value that it has here
    #[arg(short, long, value_name = "NAME[=VALUE]", allow_hyphen_values = true, value_parser = environment_entry)]
    pub(crate) env: Vec<String>,
    /// Set the variables in a file, one a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working directory, instead of the container's
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::Other)]
    pub(crate) workdir: Option<String>,
    /// User and group, names or numbers, looked up in the container
    #[arg(short, long, value_name = "USER[:GROUP]", value_hint = ValueHint::Other)]
    pub(crate) user: Option<String>,
    /// Give it all capabilities
    #[arg(long)]
    pub(crate) privileged: bool,
}

/// Runs a process in a container and returns its exit code.
pub(crate) fn exec(engine: &Engine, flags: &ExecFlags) -> anyhow::Result<u8> {
    let ExecFlags { detach, interactive, tty, .. } = *flags;
    let connection = Connection { tty, keys: flags.detach_keys.clone(), sig_proxy: false };
    if interactive && !detach {
        connection.check_terminal()?;
    }
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let request = ExecRequest {
        command: flags.command.clone(),
        env: resolve::environment(&flags.env_file, &flags.env)?,
        user: given(&flags.user),
        working_dir: given(&flags.workdir),
        tty,
        privileged: flags.privileged,
        detach,
    };
    let streams = AttachedStreams { stdin: interactive && !detach, stdout: !detach, stderr: !detach && !tty };
    let options = ExecOptions { streams, terminal_size: terminal::size().unwrap_or_default() };
    let exec = match engine.exec(&flags.container, &request, &options) {
        Ok(exec) => exec,
        // As a shell says it: with a code of its own.
        Err(error @ Error::ExecFailed { .. }) => {
            let code = if let Error::ExecFailed { code, .. } = &error { *code } else { report::FAILED };
            report::print(&error.into());
            return Ok(code);
        }
        Err(error) => return Err(error.into()),
    };
    if detach {
        return Ok(0);
    }
    Ok(connection.wait_exec(exec)?.unwrap_or(0))
}
