//! The command line under test.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;

use crate::processes::Mark;
use crate::{fixtures, workspace};

/// How long one command may take. The lab runs a guest inside a guest in an emulator: generous.
const DEADLINE: Duration = Duration::from_secs(240);

/// A `coracle` with a home of its own.
#[derive(Debug)]
pub struct Coracle {
    home: PathBuf,
    environment: Vec<(OsString, OsString)>,
    /// What all its processes have.
    mark: Option<Mark>,
    /// What removes the home in the end; none where the home is somebody else's.
    directory: Option<TempDir>,
}

/// What a shell sees of a command.
#[derive(Debug)]
pub struct Output {
    /// Exit code; 128 plus the signal if one ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
    /// From start to exit.
    pub took: Duration,
}

impl Output {
    /// Standard output as text.
    ///
    /// # Panics
    ///
    /// If it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("standard output is text")
    }

    /// Fails the test unless the exit code is `code`.
    ///
    /// # Panics
    ///
    /// If it is another, showing everything.
    #[track_caller]
    #[must_use]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code\nstdout: {}\nstderr: {}", self.shown(), self.stderr);
        self
    }

    /// Fails the test unless standard error contains each of `parts`.
    ///
    /// # Panics
    ///
    /// If one is missing.
    #[track_caller]
    #[must_use]
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in stderr: {}", self.stderr);
        }
        self
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(4096)]).into_owned()
    }
}

impl Coracle {
    /// A new, empty home.
    ///
    /// # Panics
    ///
    /// If the temporary directory cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let directory = TempDir::with_prefix("coracle-e2e-").expect("a temporary directory");
        Self { home: directory.path().to_owned(), environment: Vec::new(), mark: None, directory: Some(directory) }
    }

    /// A home in a directory that somebody else looks after.
    #[must_use]
    pub fn at(home: &Path) -> Self {
        Self { home: home.to_owned(), environment: Vec::new(), mark: None, directory: None }
    }

    /// The same with one more environment variable for every command.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// The same with a mark on all its processes.
    #[must_use]
    pub fn marked(mut self, mark: Mark) -> Self {
        self.mark = Some(mark);
        self
    }

    /// A home that the tests of this process share, with the busybox fixture loaded as `busybox`.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Coracle> = OnceLock::new();
        SHARED.get_or_init(|| {
            let coracle = Self::new();
            coracle.load(&fixtures::busybox());
            coracle
        })
    }

    /// The path of the home.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The binary: `$CORACLE_BIN`, or what `cargo xtask build` assembled.
    #[must_use]
    pub fn binary() -> PathBuf {
        std::env::var_os("CORACLE_BIN").map_or_else(|| workspace().join("target/dist/bin/coracle"), PathBuf::from)
    }

    /// A command with this home, no standard input, and the back end under test.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let binary = Self::binary();
        let mut command = self.mark.map_or_else(|| Command::new(&binary), |mark| mark.command(&binary));
        let accelerator = std::env::var("CORACLE_TEST_ACCEL").unwrap_or_else(|_| "emulated".into());
        if accelerator == "kvm" {
            keep_to_one_processor();
        }
        command.args(arguments).env("CORACLE_HOME", self.home()).env("CORACLE_ACCEL", accelerator);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub fn coracle<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        finish(self.command(arguments), b"")
    }

    /// `coracle run --rm ARGUMENTS`.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.run_with_input(arguments, b"")
    }

    /// `coracle run --rm ARGUMENTS` with standard input.
    pub fn run_with_input<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>, input: &[u8]) -> Output {
        let mut command = self.command(["run", "--rm"]);
        command.args(arguments);
        finish(command, input)
    }

    /// `coracle run --rm busybox sh -c SCRIPT`.
    pub fn sh(&self, script: &str) -> Output {
        self.run(["busybox", "sh", "-c", script])
    }

    /// `coracle VERB ARGUMENTS`, which must succeed; its standard output without the last line's end.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[track_caller]
    pub fn says<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        self.coracle(arguments).expect(0).text().trim_end_matches('\n').to_owned()
    }

    /// What `inspect` says of one container.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[track_caller]
    pub fn record(&self, name: &str) -> serde_json::Value {
        let all: serde_json::Value = serde_json::from_str(&self.says(["inspect", name])).expect("JSON");
        all[0].clone()
    }

    /// A container's state in one word.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[track_caller]
    pub fn status(&self, name: &str) -> String {
        self.says(["inspect", "--format", "{{.State.Status}}", name])
    }

    /// Waits until `reached` says so.
    ///
    /// # Panics
    ///
    /// If it does not within a minute or two.
    #[track_caller]
    pub fn until(&self, what: &str, mut reached: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE / 2;
        while !reached(self) {
            assert!(Instant::now() < deadline, "{what}: not reached; containers:\n{}", self.says(["ps", "-a"]));
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// `coracle load -i PATH`, which must succeed.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[track_caller]
    pub fn load(&self, path: &Path) {
        let _ = self.coracle([OsStr::new("load"), OsStr::new("-i"), path.as_os_str()]).expect(0);
    }

    /// Fails the test if, after one more command, a container, a run directory or a half-made file is left. A keeper
    /// that is about to end may take its own away.
    ///
    /// # Panics
    ///
    /// If something is left, naming it.
    #[track_caller]
    pub fn nothing_left(&self) {
        let listed = self.coracle(["ps", "-a", "-q"]).expect(0);
        assert_eq!(listed.text().trim(), "", "containers are left");
        let deadline = Instant::now() + DEADLINE / 8;
        while let Some(left) = self.leftover() {
            assert!(Instant::now() < deadline, "{} is left", left.display());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A file that only containers, or commands that run, have.
    fn leftover(&self) -> Option<PathBuf> {
        let entries = |name| std::fs::read_dir(self.home().join(name)).into_iter().flatten().flatten();
        let mut left = ["data/containers", "data/tmp", "run/containers"].into_iter().flat_map(entries);
        left.next().map(|entry| entry.path())
    }
}

/// `count`, or `in_the_lab` where everything is computed some fifty times as slowly.
#[must_use]
pub fn scaled(count: usize, in_the_lab: usize) -> usize {
    if std::env::var("CORACLE_TEST_ACCEL").is_ok_and(|accelerator| accelerator == "kvm") { in_the_lab } else { count }
}

/// Whether what takes minutes is to have its full size: `CORACLE_TEST_FULL=1`.
#[must_use]
pub fn full_size() -> bool {
    std::env::var_os("CORACLE_TEST_FULL").is_some()
}

/// Keeps this thread, and with it the machines that its commands start, on one processor of the lab. Its emulator runs
/// each processor in a thread of its own, and a guest that patches its own code while it moves between two of them
/// sees, about once in fifty boots, code that was never there.
fn keep_to_one_processor() {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let processors: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    if processors.len() > 1 {
        let mut one = CpuSet::new();
        one.set(processors[NEXT.fetch_add(1, Ordering::Relaxed) % processors.len()]);
        // Without it tests are as they were.
        let _ = sched_setaffinity(None, &one);
    }
}

/// A test that failed leaves no container running.
impl Drop for Coracle {
    fn drop(&mut self) {
        let runs =
            |home: &Path| std::fs::read_dir(home.join("run/containers")).is_ok_and(|mut all| all.next().is_some());
        if self.directory.is_some() && runs(&self.home) {
            let ids = self.coracle(["ps", "-a", "-q", "--no-trunc"]);
            let _ = self.coracle(["rm", "-f", "-v"].into_iter().chain(ids.text().lines()));
        }
    }
}

impl Default for Coracle {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs a prepared command to its end with `input` on its standard input (`/dev/null` if empty).
///
/// # Panics
///
/// If it cannot be started or takes longer than the deadline; it is then killed.
pub fn finish(mut command: Command, input: &[u8]) -> Output {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let started = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", Coracle::binary().display()));
    thread::scope(|scope| {
        if let Some(mut stdin) = child.stdin.take() {
            // A process that ends without reading its input breaks the pipe: that is its right.
            scope.spawn(move || drop(stdin.write_all(input)));
        }
        let stdout = reader(scope, child.stdout.take());
        let stderr = reader(scope, child.stderr.take());
        let status = wait(&mut child, started + DEADLINE);
        let took = started.elapsed();
        Output {
            code: shell_code(status),
            stdout: stdout.join().expect("the reader of stdout"),
            stderr: String::from_utf8_lossy(&stderr.join().expect("the reader of stderr")).into_owned(),
            took,
        }
    })
}

fn reader<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    stream: Option<impl Read + Send + 'scope>,
) -> thread::ScopedJoinHandle<'scope, Vec<u8>> {
    scope.spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            stream.read_to_end(&mut bytes).expect("a readable pipe");
        }
        bytes
    })
}

/// Waits for a child until `deadline`.
///
/// # Panics
///
/// If it is still running then; it is killed first.
pub fn wait(child: &mut Child, deadline: Instant) -> ExitStatus {
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().expect("kill");
            child.wait().expect("wait after kill");
            panic!("still running after {DEADLINE:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The code that a shell reports.
#[must_use]
pub fn shell_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
