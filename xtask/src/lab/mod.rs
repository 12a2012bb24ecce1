//! `cargo xtask lab`: real KVM on a machine whose own KVM cannot run a guest.
//!
//! QEMU emulates a processor with AMD's virtualization, so the machine that it boots has a `/dev/kvm` that behaves
//! like hardware. That machine sees the host's file system read-only under a layer of RAM; the project, cargo's target
//! directory and what `-d` names are shared for writing. The command runs as root, with no standard input, standard
//! output and error apart, and its exit status is this program's.
//!
//! Slow: build natively, run only what needs KVM in here.

mod job;
pub(crate) mod tsc;

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tempfile::NamedTempFile;

use crate::kernel::{self, Kind};
use crate::{initrd, setup};
use job::{Job, Share};

/// Runs a command as root in an emulated machine with a real /dev/kvm.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    machine: Machine,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The emulated machine.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Machine {
    /// Processors.
    #[arg(short, long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    cpus: u8,
    /// Memory in MiB; files written outside the shared directories live in it.
    #[arg(short, long, default_value_t = 6144)]
    memory: u32,
    /// A kernel of your own.
    #[arg(short, long)]
    kernel: Option<PathBuf>,
    /// Seconds until the machine is ended.
    #[arg(short, long, default_value_t = 1800)]
    timeout: u64,
    /// One more directory to share for writing.
    #[arg(short, long = "directory", value_name = "DIR")]
    directories: Vec<PathBuf>,
    /// Where the machine's own console goes, for when it does not boot.
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
}

/// What this program exits with when the machine ended and left no status.
pub(crate) const NO_STATUS: u8 = 125;

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure()?;
    let mut lab = arguments.machine.boot(&arguments.command, &[])?;
    let (mut out, mut err) = lab.outputs();
    let errors = thread::spawn(move || io::copy(&mut err, &mut io::stderr()));
    let output = thread::spawn(move || io::copy(&mut out, &mut io::stdout()));
    let status = lab.wait()?;
    let _ = output.join();
    let _ = errors.join();
    Ok(ExitCode::from(status))
}

impl Machine {
    /// The machine that tests run in.
    pub(crate) fn for_tests(console: &Path) -> Self {
        let console = Some(console.to_owned());
        Self { cpus: 2, memory: 8192, kernel: None, timeout: 3600, directories: Vec::new(), console }
    }

    /// Starts the machine and, in it, `command` with `environment` on top of this program's.
    pub(crate) fn boot(&self, command: &[OsString], environment: &[(&str, &str)]) -> Result<Lab> {
        let kernel = match &self.kernel {
            Some(kernel) => kernel.clone(),
            None => kernel::provide(Kind::Lab)?,
        };
        let job = Job::new(command, environment, &self.directories)?;
        let initrd = NamedTempFile::with_prefix("coracle-lab-initrd-")?;
        std::fs::write(&initrd, initrd::lab()?)?;
        let mut qemu = self.qemu(&kernel, initrd.path(), &job);
        let stop = stop_on_signals()?;
        let child = qemu.spawn().context("cannot start `setpriv qemu-system-x86_64`")?;
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        Ok(Lab { child, job, stop, deadline, _initrd: initrd })
    }

    fn qemu(&self, kernel: &Path, initrd: &Path, job: &Job) -> Command {
        // The emulator goes when this program goes, however that happens.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        qemu.args(["-machine", "microvm,acpi=off,rtc=on", "-accel", "tcg,thread=multi,tb-size=1024"]);
        qemu.args(["-cpu", &processor()]).args(["-smp", &self.cpus.to_string(), "-m", &self.memory.to_string()]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).args(["-append", &command_line()]);
        let console = self.console.as_deref().unwrap_or(Path::new("/dev/null"));
        qemu.args(["-chardev", &format!("file,id=console,path={}", console.display()), "-serial", "chardev:console"]);
        qemu.args(["-device", "virtio-serial-device"]);
        for (id, path) in [("out", "/dev/stdout"), ("err", "/dev/stderr")] {
            qemu.args(["-chardev", &format!("file,id={id},path={path}")]);
            qemu.args(["-device", &format!("virtserialport,chardev={id},name={id}")]);
        }
        qemu.args(["-device", "virtio-rng-device"]);
        for share in job.shares() {
            qemu.args(["-fsdev", &filesystem(share)]);
            qemu.args(["-device", &format!("virtio-9p-device,fsdev={tag},mount_tag={tag}", tag = share.tag)]);
        }
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        qemu
    }
}

/// AMD's first EPYC with virtualization and nested paging, less what the emulator lacks and would warn about, and less
/// XSAVE: the emulator does not let a hypervisor see a guest switch its state components on, so a guest's kernel would
/// find their sizes inconsistent.
fn processor() -> String {
    let lacking = "x2apic rdseed sha-ni fxsr-opt misalignsse 3dnowprefetch osvw topoext perfctr-core clzero \
                   xsaveerptr ibpb nrip-save xsave xsavec xsaveopt xsaves avx avx2 f16c fma";
    let mut model = "EPYC,+svm,+npt".to_owned();
    for feature in lacking.split_whitespace() {
        model.push_str(",-");
        model.push_str(feature);
    }
    model
}

/// The lab's kernel command line. The rate of the time stamp counter is given because measuring it fails on a busy host.
/// The driver of the real-time clock stays off, because it would take the interrupt of the fourth virtio device; the
/// kernel reads the date without it.
fn command_line() -> String {
    let khz = tsc::kilohertz();
    format!(
        "console=ttyS0 quiet panic=-1 reboot=t no_timer_check noreplace-smp tsc=reliable tsc_early_khz={khz} \
         transparent_hugepage=always initcall_blacklist=cmos_init"
    )
}

fn filesystem(share: &Share) -> String {
    let access = if share.writable { "" } else { ",readonly=on" };
    // A comma in a value is written twice.
    let path = share.path.display().to_string().replace(',', ",,");
    format!("local,id={},path={path},security_model=none,multidevs=remap{access}", share.tag)
}

/// A flag that signals raise: the terminal's reach the emulator as well, but clearing up is ours.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

/// A machine that runs.
#[derive(Debug)]
pub(crate) struct Lab {
    child: Child,
    job: Job,
    stop: Arc<AtomicBool>,
    deadline: Instant,
    _initrd: NamedTempFile,
}

impl Lab {
    /// Standard output and standard error of the command.
    pub(crate) fn outputs(&mut self) -> (impl Read + Send + use<>, impl Read + Send + use<>) {
        let out = self.child.stdout.take().expect("outputs are taken once");
        let err = self.child.stderr.take().expect("outputs are taken once");
        (out, err)
    }

    /// Waits for the machine's end: the command's status, or [`NO_STATUS`].
    pub(crate) fn wait(mut self) -> Result<u8> {
        while self.child.try_wait()?.is_none() {
            if self.stop.load(Ordering::Relaxed) || Instant::now() > self.deadline {
                self.child.kill()?;
            }
            thread::sleep(Duration::from_millis(20));
        }
        if let Some(status) = self.job.status()? {
            return Ok(status);
        }
        ensure!(!self.stop.load(Ordering::Relaxed), "a signal ended the lab");
        let reason = if Instant::now() > self.deadline {
            "its time was over (--timeout)"
        } else {
            "it ended by itself (--console FILE shows its last words)"
        };
        eprintln!("lab: the machine left no status: {reason}");
        Ok(NO_STATUS)
    }
}
