//! `coracle-vmm`: one process is one machine, or one machine's devices, or the question whether there can be one.

use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use rustix::net::{SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vmm::wire::Channel;

const HELP: &str = "\
Usage: coracle-vmm COMMAND

Runs one microVM. Coracle starts it; it is of no use by hand, but for `probe`.

Commands:
  machine    be the machine that the monitor on standard input orders
  devices    serve that machine's devices to an emulator (vhost-user)
  probe      say whether this host's KVM can run a guest, as one line of JSON

  --help     print this
  --version  print the version
";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(|argument| argument.to_str().unwrap_or("\u{fffd}")).collect();
    let result = match words.as_slice() {
        ["machine"] => with_channel(|channel| vmm::run::run(channel).map_err(Into::into)),
        ["devices"] => with_channel(|channel| vmm::serve::run(channel).map_err(Into::into)),
        ["probe"] => return probe(),
        ["--help" | "-h"] => print(HELP),
        ["--version" | "-V"] => print(concat!("coracle-vmm ", env!("CARGO_PKG_VERSION"), "\n")),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coracle-vmm: {}", vmm::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn with_channel(be: impl FnOnce(&Channel) -> Result<(), Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    let input = io::stdin();
    if !matches!(sockopt::socket_type(&input), Ok(SocketType::SEQPACKET)) {
        return Err("standard input is not the monitor's socket; this command is started by Coracle".into());
    }
    raise_file_limit();
    be(&Channel::new(input.as_fd().try_clone_to_owned()?))
}

/// A machine has a descriptor per layer, per vsock stream and a few per device: take what the host allows.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // With less there may still be enough.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn probe() -> ExitCode {
    let report = vmm::probe::run();
    let printed =
        serde_json::to_string(&report).map_err(io::Error::from).and_then(|line| writeln!(io::stdout(), "{line}"));
    if report.usable && printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(text: &str) -> Result<(), Box<dyn Error>> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}
