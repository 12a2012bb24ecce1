//! What this host can do, and what to do about what it cannot.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use rustix::fs::{FallocateFlags, ioctl_ficlone, statvfs};
use serde::Serialize;

use crate::{
    accelerator,
    create::meminfo_bytes,
    file_daemon,
    home::{self, Home},
    quantity::human_decimal,
    request::AcceleratorChoice,
    settings::Installation,
};

/// Least free space in bytes with which anything works, and with which it works for a while.
const FREE_SPACE: (u64, u64) = (64 << 20, 2 << 30);

/// Least available memory in bytes for one small machine, and for a few.
const MEMORY: (u64, u64) = (128 << 20, 1 << 30);

/// Least soft limits on open files for one machine, and for an image with many layers.
const OPEN_FILES: (u64, u64) = (64, 1024);

/// How a finding is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Containers run, but something is slower, smaller or missing.
    Warn,
    /// No container can run until this is dealt with.
    Fail,
}

/// One thing that was looked at. The field names are the stable output of `doctor --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: a stable word.
    pub check: &'static str,
    /// How it is meant.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, found: found.into(), advice: None }
    }

    fn bad(check: &'static str, status: Status, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, status, found: found.into(), advice: Some(advice.into()) }
    }

    /// `value` against a floor below which nothing runs and one below which things get tight.
    fn measured(check: &'static str, value: u64, floors: (u64, u64), found: String, advice: &str) -> Self {
        let status = match value {
            _ if value < floors.0 => Status::Fail,
            _ if value < floors.1 => Status::Warn,
            _ => return Self::ok(check, found),
        };
        Self::bad(check, status, found, advice)
    }
}

/// Whether a container can run.
#[must_use]
pub fn can_run(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.status != Status::Fail)
}

/// Looks at everything. Makes the home's directories if they can be made, and removes what it tries in them.
#[must_use]
pub fn examine(home: &Home, installation: &Installation, choice: AcceleratorChoice) -> Vec<Finding> {
    let mut findings = accelerators(home, installation, choice);
    for (check, path) in [
        ("machine process", &installation.vmm),
        ("guest kernel", &installation.kernel),
        ("guest init", &installation.initrd),
    ] {
        findings.push(part(check, path));
    }
    findings.push(mkfs());
    findings.push(file_daemon(installation));
    findings.push(directory("home", &home.data));
    findings.push(directory("run directory", &home.run));
    if findings.iter().all(|finding| finding.check != "home" || finding.status == Status::Ok) {
        findings.push(file_system(&home.data));
        findings.extend(free_space(&home.data));
    }
    findings.extend(memory());
    findings.push(open_files());
    findings.push(user_namespaces());
    findings
}

fn accelerators(home: &Home, installation: &Installation, choice: AcceleratorChoice) -> Vec<Finding> {
    let cache = home.run.is_dir().then_some(home.run.as_path());
    let kvm = monitor::probe_kvm_fresh(&installation.vmm, cache);
    let emulator = monitor::find_emulator(installation.emulator.as_deref(), cache);
    let needs_kvm = choice == AcceleratorChoice::Kvm;
    let needs_emulator = choice == AcceleratorChoice::Emulated || (choice == AcceleratorChoice::Auto && !kvm.usable());
    let kvm = if kvm.usable() {
        Finding::ok("kvm", accelerator::describe(&kvm))
    } else {
        let status = if needs_kvm { Status::Fail } else { Status::Warn };
        let advice = kvm.hint.clone().unwrap_or_else(|| "containers run under emulation meanwhile".to_owned());
        Finding::bad("kvm", status, accelerator::describe(&kvm), advice)
    };
    let emulator = match emulator {
        Ok(emulator) => {
            let (major, minor, patch) = emulator.version;
            Finding::ok("emulator", format!("{}, version {major}.{minor}.{patch}", emulator.path.display()))
        }
        Err(error) => {
            let status = if needs_emulator { Status::Fail } else { Status::Warn };
            Finding::bad("emulator", status, error.to_string(), error.hint())
        }
    };
    vec![kvm, emulator]
}

fn part(check: &'static str, path: &Path) -> Finding {
    if path.is_file() {
        return Finding::ok(check, path.display().to_string());
    }
    let advice = "build it with `cargo xtask build`, or set CORACLE_LIB to the directory that holds it";
    Finding::bad(check, Status::Fail, format!("{} is missing", path.display()), advice)
}

fn mkfs() -> Finding {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&search).chain(["/sbin".into(), "/usr/sbin".into()]);
    match directories.map(|directory| directory.join("mkfs.ext4")).find(|path| path.is_file()) {
        Some(path) => Finding::ok("mkfs.ext4", path.display().to_string()),
        None => Finding::bad("mkfs.ext4", Status::Fail, "not found", "install Debian's package e2fsprogs"),
    }
}

fn file_daemon(installation: &Installation) -> Finding {
    let check = "virtiofsd";
    match file_daemon::find(installation).map(|path| (file_daemon::version(&path), path)) {
        Ok((Some(version), path)) if version >= file_daemon::OLDEST => {
            Finding::ok(check, format!("{}, version {}.{}", path.display(), version.0, version.1))
        }
        Ok((Some((major, minor)), path)) => {
            let found = format!("{} is version {major}.{minor}, too old for bind mounts", path.display());
            Finding::bad(check, Status::Warn, found, file_daemon::ADVICE)
        }
        Ok((None, path)) => {
            let found = format!("{} does not tell its version", path.display());
            Finding::bad(check, Status::Warn, found, file_daemon::ADVICE)
        }
        Err(_) => Finding::bad(check, Status::Warn, "not found: no bind mounts", file_daemon::ADVICE),
    }
}

fn directory(check: &'static str, path: &Path) -> Finding {
    match home::make_private(path).and_then(|()| tempfile_in(path)) {
        Ok(_) => Finding::ok(check, path.display().to_string()),
        Err(error) => Finding::bad(
            check,
            Status::Fail,
            format!("{} cannot be written: {error}", path.display()),
            "set CORACLE_HOME to a directory that you can write to",
        ),
    }
}

/// A file without a name.
fn tempfile_in(directory: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match open(directory, flags | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            let path = directory.join(format!(".doctor-{}", std::process::id()));
            let file = open(&path, flags | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR)?;
            fs::remove_file(&path)?;
            Ok(file.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Tries what scratch disks need: holes, giving space back, clones.
fn file_system(directory: &Path) -> Finding {
    const CHECK: &str = "file system";
    let tried = (|| {
        let (file, clone) = (tempfile_in(directory)?, tempfile_in(directory)?);
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], 1 << 20)?;
        let sparse = std::os::unix::fs::MetadataExt::blocks(&file.metadata()?) * 512 < 1 << 20;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let discard = rustix::fs::fallocate(&file, punch, 1 << 20, 4096).is_ok();
        io::Result::Ok((sparse, discard, ioctl_ficlone(&clone, &file).is_ok()))
    })();
    match tried {
        Ok((sparse, discard, clones)) => {
            let word = |is: bool, name: &str| format!("{}{name}", if is { "" } else { "no " });
            let found = [word(sparse, "sparse files"), word(discard, "discard"), word(clones, "clones")].join(", ");
            match (sparse, discard) {
                (false, _) => Finding::bad(
                    CHECK,
                    Status::Warn,
                    found,
                    "each container takes its scratch disk's whole size: put CORACLE_HOME on ext4, xfs or btrfs",
                ),
                (true, false) => Finding::bad(
                    CHECK,
                    Status::Warn,
                    found,
                    "space that a container frees does not come back: put CORACLE_HOME on ext4, xfs or btrfs",
                ),
                (true, true) => Finding::ok(CHECK, found),
            }
        }
        Err(error) => Finding::bad(CHECK, Status::Warn, error.to_string(), "put CORACLE_HOME on a local file system"),
    }
}

fn free_space(directory: &Path) -> Option<Finding> {
    let free = statvfs(directory).ok().map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize))?;
    let advice = "free some space, or set CORACLE_HOME to a directory on a larger disk";
    Some(Finding::measured("free space", free, FREE_SPACE, human_decimal(free), advice))
}

fn memory() -> Option<Finding> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let available = meminfo_bytes(&meminfo, "MemAvailable")?;
    let found = format!("{} available", human_decimal(available));
    Some(Finding::measured("memory", available, MEMORY, found, "end something, or give machines less with `-m`"))
}

fn open_files() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let found = format!("at most {limit} at a time");
    Finding::measured("open files", limit, OPEN_FILES, found, "raise the limit: ulimit -n 1024")
}

/// Coracle does not need them yet for what it does as the user who runs it; a jail of an unprivileged user will.
fn user_namespaces() -> Finding {
    const CHECK: &str = "user namespaces";
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let advice = "without them a user other than root gets no jail around its machines: \
                  sysctl user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1";
    let allowed = number("/proc/sys/user/max_user_namespaces").unwrap_or(0) > 0
        && number("/proc/sys/kernel/unprivileged_userns_clone") != Some(0);
    if allowed { Finding::ok(CHECK, "allowed") } else { Finding::bad(CHECK, Status::Warn, "not allowed", advice) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_stable() {
        let finding = Finding::bad("kvm", Status::Warn, "found", "advice");
        assert_eq!(
            serde_json::to_string(&finding).unwrap(),
            r#"{"check":"kvm","status":"warn","found":"found","advice":"advice"}"#
        );
    }

    #[test]
    fn floors() {
        let status = |value| Finding::measured("x", value, (10, 20), String::new(), "").status;
        assert_eq!(
            [status(9), status(10), status(19), status(20)],
            [Status::Fail, Status::Warn, Status::Warn, Status::Ok]
        );
    }

    #[test]
    fn home_that_cannot_be_is_a_failure_with_advice() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let finding = directory("home", &file.path().join("home"));
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.found.contains(file.path().to_str().unwrap()) && finding.advice.is_some());
        assert!(!can_run(&[finding]));
    }

    #[test]
    fn this_file_system_is_tried_and_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        assert!(file_system(directory.path()).found.contains("sparse files"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
