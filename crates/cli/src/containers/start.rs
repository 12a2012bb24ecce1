//! `coracle start`.

use std::io::{self, Write as _};

use clap::Args;
use engine::{Engine, Run, StartOptions, StartOutcome, keeper::wire::AttachedStreams};

use crate::{
    Invocation,
    containers::{attach::Connection, detach_keys::DetachKeys, ended},
    output::report::{self, Refusal},
    terminal,
};

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] CONTAINER...")]
pub(crate) struct StartFlags {
    /// Connect its output and pass signals on; exit with its exit code
    #[arg(short, long)]
    pub(crate) attach: bool,
    /// Connect its input too
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Keys that leave the container running, as in ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    pub(crate) detach_keys: DetachKeys,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

pub(crate) fn start(invocation: &Invocation, flags: &StartFlags) -> anyhow::Result<u8> {
    let place = invocation.place()?;
    let options = StartOptions {
        accelerator: place.accelerator,
        terminal_size: terminal::size().unwrap_or_default(),
        begun: invocation.begun,
        ..StartOptions::default()
    };
    let engine = place.open()?;
    if !flags.attach && !flags.interactive {
        let (_, code) = report::each(&flags.containers, |name| {
            leave(&engine, name, &options)?;
            Ok(writeln!(io::stdout(), "{name}")?)
        });
        return Ok(code);
    }
    let [name] = &flags.containers[..] else {
        let message = "several containers cannot be started and attached to at once";
        return Err(Refusal::new(message, "start them without -a and -i, then attach to one").into());
    };
    attached(&engine, flags, name, options)
}

/// Starts a container and leaves it alone.
fn leave(engine: &Engine, name: &str, options: &StartOptions) -> anyhow::Result<()> {
    let StartOutcome::Launched(run) = engine.start(name, options)? else { return Ok(()) };
    run.notice.iter().for_each(|notice| report::note(notice));
    let Some(ending) = run.detach()? else { return Ok(()) };
    let why = ending.error.unwrap_or_else(|| format!("it ended with exit code {}", ending.exit_code));
    Err(anyhow::anyhow!(why).context(format!("cannot start container {name}")))
}

/// Starts a container, or finds it running, and stays with it to its end.
fn attached(engine: &Engine, flags: &StartFlags, name: &str, options: StartOptions) -> anyhow::Result<u8> {
    let (tty, open_stdin) = engine.terminal_of(name)?;
    let stdin = flags.interactive && open_stdin;
    let connection = Connection { tty, keys: flags.detach_keys.clone(), sig_proxy: true };
    if stdin {
        connection.check_terminal()?;
    }
    let streams = AttachedStreams { stdin, stdout: true, stderr: !tty };
    let run: Run<'_> = match engine.start(name, &StartOptions { streams, ..options })? {
        StartOutcome::Launched(run) => *run,
        StartOutcome::Already => engine.attach(name, streams)?,
    };
    run.notice.iter().for_each(|notice| report::note(notice));
    let Some(ending) = connection.wait(run)? else { return Ok(0) };
    ended::explain(&ending);
    Ok(ending.exit_code)
}
