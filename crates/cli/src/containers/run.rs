//! `coracle run`.

use std::io::{self, Write as _};

use engine::{Run, RunOptions, keeper::wire::AttachedStreams};

use crate::{
    Invocation,
    containers::{
        attach::Connection,
        ended,
        flags::{AttachFlags, RunFlags, Stream},
        id_file::IdFile,
        resolve,
    },
    output::report::{self, Refusal},
    registry::transfer::PullForRun,
    terminal,
};

/// Runs a container, to its end unless it is left alone before, and returns the exit code.
pub(crate) fn run(invocation: &Invocation, flags: &RunFlags) -> anyhow::Result<u8> {
    let request = resolve::request(&flags.new)?;
    let streams = streams(&flags.attach, request.tty, request.interactive)?;
    let connection =
        Connection { tty: request.tty, keys: flags.attach.detach_keys.clone(), sig_proxy: flags.attach.sig_proxy };
    if streams.stdin {
        connection.check_terminal()?;
    }
    let place = invocation.place()?;
    let id_file = flags.new.container.cidfile.as_deref().map(IdFile::create).transpose()?;
    let options = RunOptions {
        accelerator: place.accelerator,
        streams,
        detach: flags.attach.detach,
        terminal_size: terminal::size().unwrap_or_default(),
        begun: invocation.begun,
    };
    let engine = place.open()?;
    let pull = PullForRun::of(&request, &flags.new.container);
    let run = pull.around(&engine, || engine.run(&request, &options))?;
    if let Some(file) = id_file {
        file.write(&run.id)?;
    }
    run.notice.iter().for_each(|notice| report::note(notice));
    if flags.attach.detach {
        return leave(run);
    }
    let Some(ending) = connection.wait(run)? else { return Ok(0) };
    ended::explain(&ending);
    if flags.attach.timings {
        let _ = io::stderr().write_all(ending.timings.table().as_bytes());
    }
    Ok(ending.exit_code)
}

/// Prints the id of a container that runs, or says how it ended before it did.
fn leave(run: Run<'_>) -> anyhow::Result<u8> {
    let id = run.id.clone();
    if let Some(ending) = run.detach()? {
        ended::explain(&ending);
        return Ok(ending.exit_code);
    }
    writeln!(io::stdout(), "{id}")?;
    Ok(0)
}

/// The streams to connect.
fn streams(flags: &AttachFlags, tty: bool, interactive: bool) -> anyhow::Result<AttachedStreams> {
    if flags.detach {
        if !flags.attach.is_empty() {
            return Err(Refusal::new("--detach and --attach cannot be given together", "leave one of them away").into());
        }
        return Ok(AttachedStreams::default());
    }
    let wants = |stream| flags.attach.is_empty() || flags.attach.contains(&stream);
    Ok(AttachedStreams {
        stdin: interactive && wants(Stream::Stdin),
        stdout: wants(Stream::Stdout),
        stderr: !tty && wants(Stream::Stderr),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(detach: bool, attach: &[Stream]) -> AttachFlags {
        AttachFlags {
            detach,
            attach: attach.to_vec(),
            detach_keys: Default::default(),
            sig_proxy: true,
            timings: false,
        }
    }

    #[test]
    fn streams_that_are_connected() {
        let found = |attach: &[Stream], tty, interactive| {
            let AttachedStreams { stdin, stdout, stderr } = streams(&flags(false, attach), tty, interactive).unwrap();
            (stdin, stdout, stderr)
        };
        assert_eq!(found(&[], false, false), (false, true, true));
        assert_eq!(found(&[], true, true), (true, true, false));
        assert_eq!(found(&[Stream::Stderr], false, true), (false, false, true));
        assert_eq!(found(&[Stream::Stdin, Stream::Stdout], false, true), (true, true, false));
        assert_eq!(streams(&flags(true, &[]), false, true).unwrap().count(), 0);
        assert!(streams(&flags(true, &[Stream::Stdout]), false, true).is_err());
    }
}
