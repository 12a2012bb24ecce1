//! What `coracle-vmm probe` reports: whether this host's KVM runs a guest.
//!
//! The report is one line of JSON on the probe's standard output. Whoever reads it treats it as untrusted,
//! and a probe that says nothing in time as one that failed.

use serde::{Deserialize, Serialize};

/// The probe's verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Whether a stock guest kernel can run. True exactly when `reason` is [`ProbeReason::Usable`].
    pub usable: bool,
    /// Why, or why not.
    pub reason: ProbeReason,
    /// What was tried and what came of it, one line for a person.
    #[serde(default)]
    pub detail: String,
}

impl ProbeReport {
    /// A report that cannot contradict itself.
    #[must_use]
    pub fn new(reason: ProbeReason, detail: impl Into<String>) -> Self {
        Self { usable: reason == ProbeReason::Usable, reason, detail: detail.into() }
    }
}

/// Why KVM can or cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeReason {
    /// The guest ran to its end.
    Usable,
    /// There is no `/dev/kvm`.
    NoDevice,
    /// `/dev/kvm` may not be opened.
    NoPermission,
    /// The processor's virtualization extensions are in other hands.
    Busy,
    /// A virtual machine could be made, but it did not run plain 64-bit code.
    CannotRunGuest,
    /// Anything else.
    Failed,
}
