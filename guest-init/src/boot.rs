//! From the first instruction to Hello, and from there to the loop.
//!
//! Hello needs nothing but a vsock connection, so it is said before anything is mounted: while the host answers,
//! the guest mounts what it needs.

use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use protocol::{CONTROL_PORT, GuestMessage, Hello, VERSION, encode_frame};
use rustix::io::Errno;

use crate::agent::{Agent, now};
use crate::failure::{Context, Failure, Result};
use crate::platform::Platform;
use crate::process::finish_connect;
use crate::{log, sys};

/// How long the way to the host may take to appear.
const HOST_TIMEOUT: Duration = Duration::from_secs(10);

/// Most descriptors: each process needs up to six, of its streams and of its connections.
const DESCRIPTORS: u64 = 65_536;

/// Pause between two tries to reach the host.
const HOST_PAUSE: Duration = Duration::from_millis(5);

/// Runs guest init on a platform. It never returns: the machine is reset.
pub fn run(platform: &dyn Platform) -> ! {
    let started = now();
    let failure = serve(platform, started);
    log::warn(&failure.0);
    platform.reset()
}

/// Returns what kept it from serving.
fn serve(platform: &dyn Platform, started: u64) -> Failure {
    match prepare(platform, started) {
        Ok(agent) => agent.run(),
        Err(failure) => failure,
    }
}

fn prepare(platform: &dyn Platform, started: u64) -> Result<Agent<'_>> {
    sys::block_signals();
    sys::set_dumpable(false);
    rustix::process::umask(rustix::fs::Mode::empty());
    // Less is no failure: fewer processes can be served at a time.
    let _ = sys::set_limit(libc::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS);
    let control = connect(platform).context(|| "connect to the host".to_owned())?;
    let kernel_release = rustix::system::uname().release().to_string_lossy().into_owned();
    say(&control, &GuestMessage::Hello(Hello { version: VERSION, kernel_release, init_started: started, sent: now() }))
        .context(|| "say hello to the host".to_owned())?;
    let copy = control.try_clone().context(|| "copy the connection".to_owned())?;
    let agent = platform.mount_own().and_then(|()| own_stdio()).and_then(|()| Agent::new(platform, control));
    agent.inspect_err(|failure| {
        // The host may be gone, too; the reset tells it.
        let _ = say(&copy, &GuestMessage::Fatal { error: failure.0.clone() });
    })
}

fn connect(platform: &dyn Platform) -> std::result::Result<OwnedFd, Errno> {
    let deadline = Instant::now() + HOST_TIMEOUT;
    loop {
        let connected = platform.connect(CONTROL_PORT).and_then(|connection| {
            finish_connect(&connection, HOST_TIMEOUT)?;
            Ok(connection)
        });
        match connected {
            // Devices are found before the first process starts: one that is absent now will not come.
            Err(Errno::NODEV) => return connected,
            Err(_) if Instant::now() < deadline => sleep(HOST_PAUSE),
            result => return result,
        }
    }
}

fn say(control: &OwnedFd, message: &GuestMessage) -> Result<()> {
    let frame = encode_frame(message).context(|| "encode".to_owned())?;
    // A fresh connection has room for a frame this small.
    match rustix::net::send(control, &frame, rustix::net::SendFlags::NOSIGNAL) {
        Ok(length) if length == frame.len() => Ok(()),
        Ok(_) => crate::failure::failure("the host takes no bytes"),
        Err(errno) => Err(errno).context(|| "send".to_owned()),
    }
}

/// The kernel may have started this process without descriptors 0 to 2, or with the console: children get neither.
fn own_stdio() -> Result<()> {
    let open = || -> std::result::Result<(), Errno> {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        // Where nothing was open, it now has one of the three numbers, which stays open.
        if std::os::fd::AsRawFd::as_raw_fd(&null) <= 2 {
            std::mem::forget(null);
        }
        Ok(())
    };
    open().context(|| "open /dev/null".to_owned())
}
