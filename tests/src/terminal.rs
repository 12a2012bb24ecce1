//! A command at a terminal: a pseudo-terminal whose other end the test types into.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::coracle::{shell_code, wait};

/// How long the screen may take to show something.
const DEADLINE: Duration = Duration::from_secs(240);

/// A command that runs at a terminal of its own.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: File,
    output: Receiver<Vec<u8>>,
    screen: Vec<u8>,
}

impl Terminal {
    /// Starts a command as the session leader of a new terminal of this size.
    ///
    /// # Errors
    ///
    /// If the host gives no terminal, or the command cannot be started.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        tcsetwinsize(&master, size(rows, columns))?;
        let child = Self::spawn(command, &slave)?;
        drop(slave);
        let keyboard = File::from(master);
        let mut reader = keyboard.try_clone()?;
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The read fails with EIO when the last process has closed the terminal.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, keyboard, output, screen: Vec::new() })
    }

    fn spawn(command: &Command, slave: &OwnedFd) -> Result<Child> {
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        session.stdin(Stdio::from(slave.try_clone()?));
        session.stdout(Stdio::from(slave.try_clone()?)).stderr(Stdio::from(slave.try_clone()?));
        session.spawn().context("setsid of util-linux")
    }

    /// Types.
    ///
    /// # Panics
    ///
    /// If the terminal is gone.
    pub fn send(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes input");
    }

    /// Changes the window's size.
    ///
    /// # Panics
    ///
    /// If the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.keyboard, size(rows, columns)).expect("a terminal that can be resized");
    }

    /// Waits until the screen has shown `text`, and forgets what came before and with it.
    ///
    /// # Panics
    ///
    /// If it does not come in time, showing what did.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.screen.windows(text.len()).position(|w| w == text.as_bytes()) {
                self.screen.drain(..at + text.len());
                return;
            }
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.screen.extend(bytes),
                Err(e) => panic!("{text:?} did not come ({e}): {:?}", String::from_utf8_lossy(&self.screen)),
            }
        }
    }

    /// Waits for the command to end and returns its exit code.
    ///
    /// # Panics
    ///
    /// If it does not end in time.
    pub fn finish(mut self) -> i32 {
        shell_code(wait(&mut self.child, Instant::now() + DEADLINE))
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
