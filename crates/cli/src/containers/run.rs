//! `coracle run`.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use engine::{Ending, Reason, RunOptions, keeper::wire::AttachedStreams};

use crate::{
    Invocation,
    containers::{attach::Attached, resolve, run_flags::RunFlags},
    output::report,
    registry::transfer::PullForRun,
    terminal::{self, RawMode},
};

/// Most lines of a kernel log that are shown.
const LOG_LINES: usize = 20;

/// Runs a container to its end and returns the exit code.
pub(crate) fn run(invocation: &Invocation, flags: &RunFlags) -> anyhow::Result<u8> {
    let request = resolve::request(flags)?;
    let (tty, interactive) = (request.tty, request.interactive);
    if tty && interactive && !terminal::is_input() {
        anyhow::bail!("the input device is not a TTY");
    }
    let place = invocation.place()?;
    let id_file = flags.container.cidfile.as_deref().map(IdFile::create).transpose()?;
    let accelerator = place.accelerator;
    let engine = place.open()?;
    let options = RunOptions {
        accelerator,
        streams: AttachedStreams { stdin: interactive, stdout: true, stderr: !tty },
        terminal_size: terminal::size().unwrap_or_default(),
        begun: invocation.begun,
        ..RunOptions::default()
    };
    let pull = PullForRun {
        image: &request.image,
        platform: request.platform.as_deref(),
        policy: flags.container.pull,
        quiet: flags.container.quiet,
    };
    pull.before(&engine)?;
    let mut run = match engine.run(&request, &options) {
        Err(error) if pull.after(&engine, &error)? => engine.run(&request, &options)?,
        run => run?,
    };
    if let Some(file) = id_file {
        file.write(&run.id)?;
    }
    if let Some(notice) = &run.notice {
        report::note(notice);
    }
    let attached = Attached::start(run.take_pipes(), &run.control(), tty).context("cannot attach to the container")?;
    let raw = (tty && interactive).then(RawMode::enter).transpose().context("cannot make the terminal raw")?;
    let ending = run.wait(|| {});
    attached.finish();
    drop(raw);
    // Without an end, it was let go.
    let Some(ending) = ending? else { return Ok(0) };
    explain(&ending);
    if flags.container.timings {
        let _ = std::io::stderr().write_all(ending.timings.table().as_bytes());
    }
    Ok(ending.exit_code)
}

/// Says why, unless the process itself ended.
fn explain(ending: &Ending) {
    if let Some(error) = &ending.error {
        report::note(error);
    }
    let shows_log = matches!(ending.reason, Reason::BootFailed | Reason::GuestPanic | Reason::GuestError);
    if let Some(log) = ending.kernel_log.as_ref().filter(|_| shows_log) {
        let lines: Vec<_> = log.lines().collect();
        report::note("the guest kernel's last lines:");
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            let _ = writeln!(std::io::stderr(), "  | {line}");
        }
    }
}

/// The file of `--cidfile`: there before the container is, and gone again if that does not come to be.
#[derive(Debug)]
struct IdFile {
    path: PathBuf,
    written: bool,
}

impl IdFile {
    fn create(path: &Path) -> anyhow::Result<Self> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .with_context(|| format!("cannot make the file for the container's id, {}", path.display()))?;
        Ok(Self { path: path.to_owned(), written: false })
    }

    fn write(mut self, id: &str) -> anyhow::Result<()> {
        self.written = true;
        fs::write(&self.path, id).with_context(|| format!("cannot write the container's id to {}", self.path.display()))
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.written {
            let _ = fs::remove_file(&self.path);
        }
    }
}
