//! Which accelerator a machine gets.

use std::path::PathBuf;

use monitor::{Accelerator, KvmStatus};

use crate::{error::Error, home::Home, request::AcceleratorChoice, settings::Installation};

/// The accelerator of a machine, and what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// With what the machine runs.
    pub accelerator: Accelerator,
    /// The emulator, where it is needed.
    pub emulator: Option<PathBuf>,
    /// What the user should know about the choice: one line.
    pub notice: Option<String>,
}

/// Finds the accelerator that a request wants. The verdict on KVM is remembered in the run directory, which a
/// reboot empties.
///
/// # Errors
///
/// [`Error::Kvm`] and [`Error::Emulator`], with hints.
pub fn choose(choice: AcceleratorChoice, installation: &Installation, home: &Home) -> Result<Chosen, Error> {
    let kvm = || monitor::probe_kvm(&installation.vmm, Some(&home.run));
    match choice {
        AcceleratorChoice::Emulated => emulated(installation, home, None),
        AcceleratorChoice::Kvm => require(&kvm()),
        AcceleratorChoice::Auto => {
            let status = kvm();
            require(&status).or_else(|_| emulated(installation, home, Some(notice(&status))))
        }
    }
}

fn require(status: &KvmStatus) -> Result<Chosen, Error> {
    if status.usable() {
        return Ok(Chosen { accelerator: Accelerator::Kvm, emulator: None, notice: None });
    }
    Err(Error::Kvm { reason: describe(status), hint: status.hint.clone() })
}

fn emulated(installation: &Installation, home: &Home, notice: Option<String>) -> Result<Chosen, Error> {
    let emulator =
        monitor::find_emulator(installation.emulator.as_deref(), Some(&home.run)).map_err(Error::Emulator)?;
    Ok(Chosen { accelerator: Accelerator::Emulated, emulator: Some(emulator.path), notice })
}

fn notice(status: &KvmStatus) -> String {
    format!("KVM is not usable here ({}); using emulation, which is slower: see `coracle doctor`", status.reason)
}

/// Why KVM cannot be used, on one line.
#[must_use]
pub fn describe(status: &KvmStatus) -> String {
    let detail = status.detail.trim();
    let text = if detail.is_empty() { status.reason.to_string() } else { format!("{}: {detail}", status.reason) };
    text.replace('\n', " ")
}
