//! `bench start`: from the command to the exit of `/bin/true`, and how soon the guest's init runs.
//!
//! Two parts. On this machine, under emulation: our guest kernel and Debian's stock cloud kernel boot the same
//! initial RAM disk. In the lab, where KVM is real: `coracle run --rm busybox true` next to QEMU that boots the same
//! kernel to the same init and no further, and next to `crun run` of the same root; and the memory that the machine
//! process has beyond the guest's.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::paired::{Candidate, compare, spread};
use crate::cpio::Archive;
use crate::lab::{self, Machine};
use crate::{process, project};

/// What our machines have on their kernel's command line when QEMU runs them. The clock's rate is given: a kernel that
/// measures it on a busy host may never get done.
fn command_line(more: &str) -> String {
    let khz = lab::tsc::kilohertz();
    format!("panic=-1 reboot=t noreplace-smp no_timer_check tsc=reliable tsc_early_khz={khz} {more}")
}

/// Both parts.
pub(crate) fn run(rounds: usize) -> Result<()> {
    boot(rounds)?;
    let command = ["bench", "start", "--inside", "--rounds", &rounds.to_string()].map(OsString::from);
    let command: Vec<OsString> = std::iter::once(std::env::current_exe()?.into()).chain(command).collect();
    let mut lab = Machine::for_tests(&project::output("bench/lab-console.log")).boot(&command, &[])?;
    let (mut out, mut err) = lab.outputs();
    let errors = thread::spawn(move || io::copy(&mut err, &mut io::stderr()));
    io::copy(&mut out, &mut io::stdout())?;
    let status = lab.wait()?;
    let _ = errors.join();
    ensure!(status == 0, "the part in the lab failed with {status}");
    Ok(())
}

/// Boots both kernels under emulation, in turn, to an init that speaks and resets.
fn boot(rounds: usize) -> Result<()> {
    let bench = project::output("bench");
    fs::create_dir_all(&bench)?;
    let initrd = bench.join("speaking.cpio");
    fs::write(&initrd, speaking_initrd()?)?;
    let (ours, debian) = (dist().join("lib/coracle/vmlinux"), cloud_kernel(&bench)?);
    let boot = |machine: &str, kernel: &Path, more: &str| {
        let mut command = qemu(machine, "tcg", "max", kernel, &initrd);
        command.arg("-append").arg(command_line(&format!("console=ttyS0 quiet {more}"))).args(["-serial", "stdio"]);
        until_init(&mut command)
    };
    let (mut own, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let first = boot("microvm,acpi=off", &ours, "8250.nr_uarts=1 noapictimer rcupdate.rcu_expedited=1")?;
        own.push(first);
        ratios.push(boot("microvm", &debian, "")? / first);
    }
    println!("\nFrom the start of QEMU (emulation) to the first word of the guest's init, {rounds} rounds in turn\n");
    println!(
        "guest kernel: median {:.2} s; Debian's cloud kernel: {:.2} times that",
        spread(&own).1,
        spread(&ratios).1
    );
    Ok(())
}

/// Seconds from the start of the machine to the first word of its init.
fn until_init(command: &mut Command) -> Result<f64> {
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().context("standard output is a pipe")?).split(b'\n');
    let mut took = None;
    for line in lines {
        if took.is_none() && String::from_utf8_lossy(&line?).trim() == FIRST_WORD {
            took = Some(started.elapsed().as_secs_f64());
        }
    }
    ensure!(child.wait()?.success(), "{command:?} failed");
    took.context("the guest's init did not speak")
}

/// What the init of [`speaking_initrd`] says.
const FIRST_WORD: &str = "afloat";

fn dist() -> PathBuf {
    project::output("dist")
}

fn qemu(machine: &str, accelerator: &str, cpu: &str, kernel: &Path, initrd: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["60", "qemu-system-x86_64"]);
    command.args(["-M", machine, "-accel", accelerator, "-cpu", cpu, "-m", "512"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    command
}

/// An initial RAM disk whose init says [`FIRST_WORD`] on the console and resets the machine.
fn speaking_initrd() -> Result<Vec<u8>> {
    let init = format!("#!/bin/busybox sh\necho {FIRST_WORD} > /dev/console\n/bin/busybox reboot -f\n");
    let busybox = fs::read("/bin/busybox").context("/bin/busybox of Debian's busybox-static")?;
    let mut archive = Archive::new();
    archive.directory("bin").directory("dev").character_device("dev/console", 5, 1);
    archive.executable("bin/busybox", &busybox).executable("init", init.as_bytes());
    Ok(archive.finish())
}

/// Debian's cloud kernel, unpacked from its package once.
fn cloud_kernel(bench: &Path) -> Result<PathBuf> {
    let unpacked = bench.join("cloud-kernel");
    if !unpacked.exists() {
        let depends = process::text_of(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
        let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        let package = package.context("linux-image-cloud-amd64 names no kernel package")?;
        let part = bench.join("cloud-kernel.part");
        fs::create_dir_all(&part)?;
        process::run(
            Command::new("apt-get")
                .args(["download", "-qq", "-o", "APT::Sandbox::User=root", package])
                .current_dir(&part),
        )?;
        let script = "dpkg-deb -x linux-image-*.deb . && rm linux-image-*.deb";
        process::run(Command::new("sh").args(["-c", script]).current_dir(&part))?;
        fs::rename(&part, &unpacked)?;
    }
    let boot = fs::read_dir(unpacked.join("boot"))?.filter_map(|entry| Some(entry.ok()?.path()));
    boot.into_iter()
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
        .context("the package holds no vmlinuz")
}

/// The part in the lab.
pub(crate) fn inside(rounds: usize) -> Result<()> {
    let work = Path::new("/tmp/bench");
    fs::create_dir_all(work)?;
    // The lab's shared directories are slow: everything measured lies in its memory.
    process::run(Command::new("cp").arg("-a").arg(dist()).arg(work.join("dist")))?;
    let (coracle, home) = (work.join("dist/bin/coracle"), work.join("home"));
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&coracle);
        command.env("CORACLE_HOME", &home).env("CORACLE_ACCEL", "kvm").args(arguments);
        command
    };
    let layout = project::output("fixtures").join("busybox");
    process::run(run(&["load", "-i"]).arg(&layout))?;
    let (kernel, initrd) = (work.join("dist/lib/coracle/vmlinux"), work.join("dist/lib/coracle/initrd"));
    let bundle = crun_bundle(work, &layout)?;
    let mut number = 0;
    let mut candidates = [
        Candidate::new("coracle run --rm busybox true", || run(&["run", "--rm", "busybox", "true"])),
        Candidate::new("qemu -M microvm -accel kvm, same kernel and init", || {
            let mut command = qemu("microvm,acpi=off", "kvm", "host", &kernel, &initrd);
            command.arg("-append").arg(command_line("console=null"));
            command
        }),
        Candidate::new("crun run of the same root", || {
            number += 1;
            let mut command = Command::new("crun");
            command.args(["--cgroup-manager=disabled", "run", "--bundle"]).arg(&bundle).arg(format!("bench{number}"));
            command
        }),
    ];
    compare("In the lab, to the exit of /bin/true", rounds, &mut candidates)?;
    println!("\n{}", String::from_utf8_lossy(&run(&["run", "--rm", "--timings", "busybox", "true"]).output()?.stderr));
    memory(&run)
}

/// A runtime bundle with the image's root, unpacked, that runs `/bin/true`.
fn crun_bundle(work: &Path, layout: &Path) -> Result<PathBuf> {
    let bundle = work.join("bundle");
    let root = bundle.join("rootfs");
    fs::create_dir_all(&root)?;
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let blob = |descriptor: &Value| -> Result<PathBuf> {
        let digest = descriptor["digest"].as_str().context("a digest")?;
        Ok(layout.join("blobs").join(digest.replacen(':', "/", 1)))
    };
    let manifest: Value = serde_json::from_slice(&fs::read(blob(&index["manifests"][0])?)?)?;
    for layer in manifest["layers"].as_array().context("layers")? {
        process::run(Command::new("tar").arg("-xf").arg(blob(layer)?).arg("-C").arg(&root))?;
    }
    process::run(Command::new("crun").arg("spec").current_dir(&bundle))?;
    let path = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["args"] = serde_json::json!(["/bin/true"]);
    config["process"]["terminal"] = Value::Bool(false);
    // The lab's kernel has no message queues; `/bin/true` does not miss them.
    config["mounts"].as_array_mut().context("mounts")?.retain(|mount| mount["type"] != "mqueue");
    fs::write(&path, config.to_string())?;
    Ok(bundle)
}

/// What the machine process has resident beyond the guest's memory.
fn memory(run: &dyn Fn(&[&str]) -> Command) -> Result<()> {
    let mut command = run(&["run", "--rm", "--name", "resident", "busybox", "sh", "-c", "echo ready; sleep 30"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().context("stdout")?).read_line(&mut line)?;
    let inspected: Value = serde_json::from_slice(&run(&["inspect", "resident"]).output()?.stdout)?;
    for process in ["Machine", "Keeper"] {
        let pid = inspected[0]["Coracle"][process]["Pid"].as_u64().context("a pid in the record")?;
        let (guest, other) = resident(&fs::read_to_string(format!("/proc/{pid}/smaps"))?);
        println!("{process} process: {other} KiB resident beyond {guest} KiB of guest memory");
    }
    process::run(&mut run(&["rm", "-f", "resident"]))?;
    child.wait()?;
    Ok(())
}

/// Resident KiB of the guest's memory and of everything else. A machine's memory is at least 64 MiB, and nothing else
/// in the process is that large.
fn resident(smaps: &str) -> (u64, u64) {
    const GUEST: u64 = 64 << 10;
    let (mut guest, mut other, mut size) = (0, 0, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or("");
        let value: u64 = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        match name {
            "Size:" => size = value,
            "Rss:" if size >= GUEST => guest += value,
            "Rss:" => other += value,
            _ => {}
        }
    }
    (guest, other)
}

#[cfg(test)]
mod tests {
    use super::resident;

    #[test]
    fn guest_memory_is_told_apart() {
        let smaps =
            "00-10 rw-p 0 00:00 0\nSize: 524288 kB\nRss: 100 kB\n20-30 r-xp 0 00:01 2 /bin/x\nSize: 9 kB\nRss: 7 kB\n";
        assert_eq!(resident(smaps), (100, 7));
    }
}
