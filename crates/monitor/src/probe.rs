//! Can this host's KVM run a guest?
//!
//! `/dev/kvm` can exist, and machines can be created on it, on hosts that cannot run a stock guest. So
//! `coracle-vmm probe` runs one, under a deadline, in a process that can be killed. That the device is missing or
//! may not be opened is found out here every time; that a guest runs, or does not, is kept until the host, the
//! device or `coracle-vmm` changes, so that it costs a `run` nothing.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use machine::{ProbeReason, ProbeReport};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::bounded::{self, RunError};
use crate::end::printable;
use crate::verdicts::{self, FileStamp};

const DEVICE: &str = "/dev/kvm";

const CACHE: &str = "kvm-probe.json";

/// How long a guest of a few instructions may take. It needs some milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a verdict counts that a busy host may have caused.
const DOUBTFUL_SPAN: Duration = Duration::from_secs(300);

/// Whether KVM can be used here, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmStatus {
    /// Why, or why not.
    pub reason: KvmReason,
    /// What was tried and what came of it, one line.
    pub detail: String,
    /// What the user can do about it.
    pub hint: Option<String>,
    /// The probe ran earlier.
    #[serde(default)]
    pub cached: bool,
}

impl KvmStatus {
    /// Whether a machine can run under [`Accelerator::Kvm`](crate::Accelerator::Kvm).
    #[must_use]
    pub fn usable(&self) -> bool {
        self.reason == KvmReason::Usable
    }

    fn new(reason: KvmReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), hint: reason.hint().map(Into::into), cached: false }
    }
}

/// Why KVM can or cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvmReason {
    /// A guest ran.
    Usable,
    /// There is no `/dev/kvm`.
    NoDevice,
    /// `/dev/kvm` may not be opened.
    NoPermission,
    /// The processor's virtualization extensions are in other hands.
    Busy,
    /// A machine could be made, but it did not run plain 64-bit code.
    CannotRunGuest,
    /// The guest did not end in time.
    TimedOut,
    /// The probe itself did not work.
    ProbeFailed,
}

impl KvmReason {
    fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::Usable => return None,
            Self::NoDevice => {
                "load the module kvm_amd or kvm_intel; on a virtual machine, have nested virtualization turned on for it"
            }
            Self::NoPermission => "join the group that owns it: usermod -aG kvm \"$USER\", then log in again",
            Self::Busy => "stop the other hypervisor (VirtualBox, VMware) that holds the processor's extensions",
            Self::CannotRunGuest => {
                "this host's KVM cannot run a stock guest: if it is a virtual machine, its own host must offer nested \
                 virtualization in hardware"
            }
            Self::TimedOut => {
                "the host may be overloaded, or its nested virtualization too slow; `coracle doctor` tries again"
            }
            Self::ProbeFailed => "check that coracle-vmm is the one that was installed with coracle",
        })
    }
}

impl fmt::Display for KvmReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usable => "KVM is usable",
            Self::NoDevice => "there is no /dev/kvm",
            Self::NoPermission => "/dev/kvm may not be opened",
            Self::Busy => "KVM is in use by another hypervisor",
            Self::CannotRunGuest => "this host's KVM cannot run a guest",
            Self::TimedOut => "a probe guest did not end in time",
            Self::ProbeFailed => "the KVM probe failed",
        })
    }
}

impl From<ProbeReason> for KvmReason {
    fn from(reason: ProbeReason) -> Self {
        match reason {
            ProbeReason::Usable => Self::Usable,
            ProbeReason::NoDevice => Self::NoDevice,
            ProbeReason::NoPermission => Self::NoPermission,
            ProbeReason::Busy => Self::Busy,
            ProbeReason::CannotRunGuest => Self::CannotRunGuest,
            ProbeReason::Failed => Self::ProbeFailed,
        }
    }
}

/// Whether KVM can be used, as found now or earlier. `cache` is a directory of ours.
#[must_use]
pub fn probe_kvm(vmm: &Path, cache: Option<&Path>) -> KvmStatus {
    Probe { device: Path::new(DEVICE), vmm, cache, patience: PATIENCE }.status(false)
}

/// Whether KVM can be used, found out now. The verdict is kept in `cache` for [`probe_kvm`].
#[must_use]
pub fn probe_kvm_fresh(vmm: &Path, cache: Option<&Path>) -> KvmStatus {
    Probe { device: Path::new(DEVICE), vmm, cache, patience: PATIENCE }.status(true)
}

/// What a verdict depends on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    boot_id: String,
    kernel_release: String,
    device: Option<FileStamp>,
    vmm: Option<FileStamp>,
}

struct Probe<'a> {
    device: &'a Path,
    vmm: &'a Path,
    cache: Option<&'a Path>,
    patience: Duration,
}

impl Probe<'_> {
    fn status(&self, fresh: bool) -> KvmStatus {
        if let Err(error) = OpenOptions::new().read(true).write(true).open(self.device) {
            let reason = reason_of(&error);
            return KvmStatus::new(reason, format!("opening {}: {error}", self.device.display()));
        }
        let key = self.key();
        let known = if fresh { None } else { self.cache.and_then(|dir| verdicts::recall(dir, CACHE, &key)) };
        if let Some(status) = known {
            return KvmStatus { cached: true, ..status };
        }
        let status = self.run();
        if let (Some(dir), Some(span)) = (self.cache, span_of(status.reason)) {
            verdicts::keep(dir, CACHE, &key, &status, span);
        }
        status
    }

    fn key(&self) -> Key {
        Key {
            boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            kernel_release: rustix::system::uname().release().to_string_lossy().into_owned(),
            device: FileStamp::of_device(self.device),
            vmm: FileStamp::of(self.vmm),
        }
    }

    fn run(&self) -> KvmStatus {
        let mut command = Command::new(self.vmm);
        command.arg("probe").env_clear();
        match bounded::run(command, self.patience) {
            Ok(output) => read_report(&output.stdout, &output.ending),
            Err(RunError::TimedOut(after)) => {
                KvmStatus::new(KvmReason::TimedOut, format!("killed after {} ms", after.as_millis()))
            }
            Err(RunError::Io(error)) => {
                KvmStatus::new(KvmReason::ProbeFailed, format!("running {}: {error}", self.vmm.display()))
            }
            Err(error) => KvmStatus::new(KvmReason::ProbeFailed, format!("{}: {error}", self.vmm.display())),
        }
    }
}

fn reason_of(error: &io::Error) -> KvmReason {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::NOTDIR) => KvmReason::NoDevice,
        Some(Errno::ACCESS | Errno::PERM) => KvmReason::NoPermission,
        Some(Errno::BUSY) => KvmReason::Busy,
        _ => KvmReason::ProbeFailed,
    }
}

/// How long a verdict of a probe that ran is kept: not at all, for a while, or until its key changes.
#[expect(clippy::option_option, reason = "whether to keep it, and whether for ever")]
fn span_of(reason: KvmReason) -> Option<Option<Duration>> {
    match reason {
        KvmReason::Usable | KvmReason::CannotRunGuest => Some(None),
        KvmReason::TimedOut => Some(Some(DOUBTFUL_SPAN)),
        KvmReason::NoDevice | KvmReason::NoPermission | KvmReason::Busy | KvmReason::ProbeFailed => None,
    }
}

/// Reads the one line of the probe, which is nobody's word but its own.
fn read_report(stdout: &[u8], ending: &str) -> KvmStatus {
    let report = match serde_json::from_slice::<ProbeReport>(stdout) {
        Ok(report) if report.usable == (report.reason == ProbeReason::Usable) => report,
        Ok(_) => return KvmStatus::new(KvmReason::ProbeFailed, "its report contradicts itself"),
        Err(error) => {
            return KvmStatus::new(
                KvmReason::ProbeFailed,
                format!("no report ({ending}): {}", printable(&error.to_string())),
            );
        }
    };
    KvmStatus::new(report.reason.into(), printable(&report.detail))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// A `coracle-vmm` that counts its runs.
    fn fake_vmm(dir: &Path, body: &str) -> PathBuf {
        let path = dir.join("coracle-vmm");
        fs::write(&path, format!("#!/bin/sh\necho x >> {}/runs\n{body}\n", dir.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn runs(dir: &Path) -> usize {
        fs::read_to_string(dir.join("runs")).unwrap_or_default().lines().count()
    }

    fn status(dir: &Path, vmm: &Path, fresh: bool) -> KvmStatus {
        let patience = Duration::from_millis(500);
        Probe { device: Path::new("/dev/null"), vmm, cache: Some(dir), patience }.status(fresh)
    }

    fn report(reason: ProbeReason, detail: &str) -> String {
        format!("echo '{}'", serde_json::to_string(&ProbeReport::new(reason, detail)).unwrap())
    }

    #[test]
    fn a_verdict_costs_one_run_until_something_changes() {
        let dir = tempfile::tempdir().unwrap();
        let vmm = fake_vmm(dir.path(), &report(ProbeReason::Usable, "ran"));
        let first = status(dir.path(), &vmm, false);
        assert!(first.usable() && !first.cached && first.hint.is_none());
        let second = status(dir.path(), &vmm, false);
        assert!(second.usable() && second.cached);
        assert_eq!(runs(dir.path()), 1);
        assert!(!status(dir.path(), &vmm, true).cached);
        assert_eq!(runs(dir.path()), 2);
        fake_vmm(dir.path(), &report(ProbeReason::CannotRunGuest, "paddq ended in an internal error"));
        let other = status(dir.path(), &vmm, false);
        assert_eq!((other.reason, other.cached), (KvmReason::CannotRunGuest, false));
        assert!(other.detail.contains("paddq") && other.hint.unwrap().contains("nested"));
        assert!(status(dir.path(), &vmm, false).cached);
    }

    #[test]
    fn a_probe_that_hangs_is_killed_and_not_tried_again_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let vmm = fake_vmm(dir.path(), "exec sleep 60");
        assert_eq!(status(dir.path(), &vmm, false).reason, KvmReason::TimedOut);
        assert!(status(dir.path(), &vmm, false).cached);
        assert_eq!(runs(dir.path()), 1);
    }

    #[test]
    fn a_passing_trouble_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let vmm = fake_vmm(dir.path(), &report(ProbeReason::Busy, "KVM_CREATE_VM: busy"));
        assert_eq!(status(dir.path(), &vmm, false).reason, KvmReason::Busy);
        assert_eq!(status(dir.path(), &vmm, false).reason, KvmReason::Busy);
        assert_eq!(runs(dir.path()), 2);
    }

    #[test]
    fn what_is_no_report_is_a_failed_probe() {
        let dir = tempfile::tempdir().unwrap();
        let garbage = ["echo hello", "exit 3", "echo '{\"usable\":true,\"reason\":\"busy\"}'", "kill -9 $$", "echo []"];
        for body in garbage {
            let vmm = fake_vmm(dir.path(), body);
            assert_eq!(status(dir.path(), &vmm, true).reason, KvmReason::ProbeFailed, "{body}");
        }
        assert_eq!(status(dir.path(), Path::new("/nonexistent/vmm"), true).reason, KvmReason::ProbeFailed);
    }

    #[test]
    fn a_device_that_cannot_be_opened_needs_no_probe() {
        let dir = tempfile::tempdir().unwrap();
        let vmm = fake_vmm(dir.path(), &report(ProbeReason::Usable, ""));
        let probe = Probe { device: &dir.path().join("kvm"), vmm: &vmm, cache: None, patience: PATIENCE };
        assert_eq!(probe.status(false).reason, KvmReason::NoDevice);
        assert_eq!(runs(dir.path()), 0);
        assert_eq!(reason_of(&io::Error::from(Errno::ACCESS)), KvmReason::NoPermission);
        assert_eq!(reason_of(&io::Error::from(Errno::BUSY)), KvmReason::Busy);
        assert_eq!(reason_of(&io::Error::from(Errno::IO)), KvmReason::ProbeFailed);
        assert!(KvmReason::NoPermission.hint().unwrap().contains("kvm"));
    }
}
