//! `coracle cp`: Docker's rules of what lands where ([`arguments`]), archives made of files here ([`pack`]), and files
//! made of archives ([`unpack`]).

mod arguments;
mod pack;
mod unpack;

use std::{
    fs,
    io::{self, IsTerminal as _, PipeReader, PipeWriter, Write},
    path::Path,
    thread,
};

use anyhow::Context as _;
use clap::{Args, ValueHint};
use engine::{
    Engine,
    files::{CopyInOptions, FilesError, PathStat},
    quantity::human_decimal,
};

use self::arguments::{Direction, Target, landing};
use crate::output::report::{self, Refusal};

#[derive(Debug, Args)]
#[command(
    override_usage = "[OPTIONS] CONTAINER:PATH PATH|-\n       [OPTIONS] PATH|- CONTAINER:PATH",
    after_help = "- is a tar archive on standard input or output. A directory's path that ends in /. means its contents."
)]
pub(crate) struct CpFlags {
    /// What is copied
    #[arg(value_name = "FROM", value_hint = ValueHint::AnyPath)]
    pub(crate) from: String,
    /// Where to
    #[arg(value_name = "TO", value_hint = ValueHint::AnyPath)]
    pub(crate) to: String,
    /// Keep owners
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Follow the path's last component where it is a symbolic link
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// Say nothing
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

pub(crate) fn copy(engine: &Engine, flags: &CpFlags) -> anyhow::Result<()> {
    match Direction::of(&flags.from, &flags.to)? {
        Direction::Out { name, path, to: None } => {
            if io::stdout().is_terminal() {
                let hint = "send standard output to a file, or name a path";
                return Err(Refusal::new("an archive is nothing to write to a terminal", hint).into());
            }
            let mut out = io::stdout().lock();
            engine.copy_out(&name, &path, flags.follow_link, &mut out).map_err(report::own_pipe)?;
            Ok(out.flush()?)
        }
        Direction::Out { name, path, to: Some(to) } => copy_out(engine, flags, &name, &path, &to),
        Direction::In { from: None, name, path } => {
            if io::stdin().is_terminal() {
                return Err(Refusal::new("standard input is a terminal", "pipe an archive in, or name a path").into());
            }
            copy_stream_in(engine, &name, &path)
        }
        Direction::In { from: Some(from), name, path } => copy_in(engine, flags, &from, &name, &path),
    }
}

fn copy_out(engine: &Engine, flags: &CpFlags, name: &str, path: &str, to: &Path) -> anyhow::Result<()> {
    let found = resolved(engine, name, path, flags.follow_link)?;
    let (target, shown) = target_here(to)?;
    let landing = landing(found.is_dir(), &shown, target)?;
    let options = unpack::Options { directory: landing.directory.into(), name: landing.name, owners: flags.archive };
    let contents_only = path.ends_with("/.") || path.trim_matches('/').is_empty();
    let options = made_directory(options, contents_only)?;
    let bytes = through(
        |out| engine.copy_out(name, path, flags.follow_link, out).map(drop).map_err(Into::into),
        |archive| unpack::unpack(archive, &options),
    )?;
    tell(flags, bytes, &shown);
    Ok(())
}

/// What is at a path here where something is to go, and the path that it leads to: files are replaced, links are not.
fn target_here(path: &Path) -> anyhow::Result<(Target, String)> {
    let text = path.to_string_lossy().into_owned();
    let target = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Target::Directory,
        Ok(metadata) if metadata.is_file() => Target::File,
        Ok(_) => {
            let hint = "send an archive there: `coracle cp CONTAINER:PATH - | tar -xO`";
            return Err(Refusal::new(format!("{text} is neither a directory nor a regular file"), hint).into());
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Target::Missing, text)),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {text}")),
    };
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        let leads_to = fs::canonicalize(path).with_context(|| format!("cannot look at {text}"))?;
        return Ok((target, leads_to.to_string_lossy().into_owned()));
    }
    Ok((target, text))
}

/// The contents of a directory that are to be a new directory have no name to be replaced: it is made first.
fn made_directory(options: unpack::Options, contents_only: bool) -> anyhow::Result<unpack::Options> {
    match &options.name {
        Some(name) if contents_only => {
            let directory = options.directory.join(name);
            fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
            Ok(unpack::Options { directory, name: None, ..options })
        }
        _ => Ok(options),
    }
}

/// What is at a path, and with `follow` at where it leads.
fn resolved(engine: &Engine, name: &str, path: &str, follow: bool) -> anyhow::Result<PathStat> {
    let found = engine.stat_path(name, path)?;
    match found.link_target.as_ref().filter(|_| follow || path.ends_with('/')) {
        Some(target) => Ok(engine.stat_path(name, &target.to_string_lossy())?),
        None => Ok(found),
    }
}

/// A file does not take a directory's place, nor a directory a file's.
const IN_PLACE: CopyInOptions = CopyInOptions { no_overwrite_dir_non_dir: true };

/// Whether an error says that there is no such path, as far as can be seen.
fn is_missing(error: &engine::Error) -> bool {
    matches!(error, engine::Error::Files(FilesError::NoSuchPath { .. } | FilesError::Mounted { .. }))
}

/// What is at the path in a container where something is to go, and the path that it leads to.
fn target_inside(engine: &Engine, name: &str, path: &str) -> anyhow::Result<(Target, String)> {
    let kind = |found: &PathStat| if found.is_dir() { Target::Directory } else { Target::File };
    let found = match engine.stat_path(name, path) {
        Ok(found) => found,
        Err(error) if is_missing(&error) => return Ok((Target::Missing, path.to_owned())),
        Err(error) => return Err(error.into()),
    };
    let Some(target) = &found.link_target else { return Ok((kind(&found), path.to_owned())) };
    let target = target.to_string_lossy().into_owned();
    match engine.stat_path(name, &target) {
        Ok(found) => Ok((kind(&found), target)),
        Err(error) if is_missing(&error) => Ok((Target::Missing, target)),
        Err(error) => Err(error.into()),
    }
}

fn copy_in(engine: &Engine, flags: &CpFlags, from: &Path, name: &str, path: &str) -> anyhow::Result<()> {
    let text = from.to_string_lossy();
    let follow = flags.follow_link || text.ends_with('/');
    let metadata = if follow { fs::metadata(from) } else { fs::symlink_metadata(from) };
    let metadata = metadata.with_context(|| format!("cannot read {}", from.display()))?;
    if text.ends_with('/') && !metadata.is_dir() {
        return Err(Refusal::new(format!("{text} is not a directory"), "leave the slash at its end away").into());
    }
    let (target, path) = target_inside(engine, name, path)?;
    let landing = landing(metadata.is_dir(), &path, target)?;
    if target == Target::Missing {
        // Said before anything is read: there is no such directory.
        engine.stat_path(name, &landing.directory)?;
    }
    let own_name = if text.ends_with("/.") || text == "." { None } else { from.file_name() };
    let in_archive = match (&landing.name, own_name) {
        (Some(name), _) => name.into(),
        (None, Some(own)) => own.into(),
        (None, None) => ".".into(),
    };
    let source = pack::Source { path: from.to_owned(), name: in_archive, follow, owners: flags.archive };
    let bytes = through(
        |out| pack::pack(&source, out),
        |mut archive| Ok(engine.copy_in(name, &landing.directory, &IN_PLACE, &mut archive)?),
    )?;
    tell(flags, bytes, &format!("{name}:{path}"));
    Ok(())
}

fn copy_stream_in(engine: &Engine, name: &str, path: &str) -> anyhow::Result<()> {
    let (target, path) = target_inside(engine, name, path)?;
    if target != Target::Directory {
        let hint = "an archive is unpacked into a directory that is there";
        return Err(Refusal::new(format!("{path} in {name} is not a directory"), hint).into());
    }
    Ok(engine.copy_in(name, &path, &IN_PLACE, &mut io::stdin().lock())?)
}

/// Lets an archive flow from one function to another, and says how many bytes it had. Where both fail, one of them
/// has only heard of it: the writer that its pipe broke, the reader that the archive ends too early.
fn through(
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()> + Send,
    read: impl FnOnce(PipeReader) -> anyhow::Result<()> + Send,
) -> anyhow::Result<u64> {
    let (reader, writer) = io::pipe()?;
    thread::scope(|scope| {
        let mut writer = Counted { writer, bytes: 0 };
        let writing = scope.spawn(move || write(&mut writer).map(|()| writer.bytes));
        let was_read = read(reader);
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (written, was_read) {
            (Err(error), Err(other)) if report::has_broken_pipe(&error) => Err(other),
            (written, was_read) => written.and_then(|bytes| was_read.map(|()| bytes)),
        }
    })
}

#[derive(Debug)]
struct Counted {
    writer: PipeWriter,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.writer.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn tell(flags: &CpFlags, bytes: u64, to: &str) {
    if !flags.quiet && io::stderr().is_terminal() {
        // Standard error that takes nothing cannot be complained about.
        let _ = writeln!(io::stderr(), "Successfully copied {} to {to}", human_decimal(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_here() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), "").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        let file = fs::canonicalize(path("file")).unwrap().to_string_lossy().into_owned();
        assert_eq!(target_here(&path("link")).unwrap(), (Target::File, file));
        assert_eq!(target_here(directory.path()).unwrap().0, Target::Directory);
        assert_eq!(target_here(&path("gone")).unwrap().0, Target::Missing);
        let refused = target_here(Path::new("/dev/null")).unwrap_err();
        assert!(refused.to_string().contains("neither a directory nor a regular file"));
    }
}
