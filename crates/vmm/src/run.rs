//! The pipeline: from the monitor's order to the machine's end.

use std::fs::File;
use std::io;
use std::sync::Arc;

use boot::{BootError, Entry};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use machine::{FileIndex, FromMachine, MachineSpec};
use thiserror::Error;
use vm_memory::GuestMemoryMmap;

use crate::attach::{self, AttachError};
use crate::bus::Bus;
use crate::layout::{self, MachineLayout, PlanError};
use crate::memory::{self, Backing, Machine, MemoryError};
use crate::request::{self, Order};
use crate::spec_check::{self, SpecError};
use crate::vcpu::Vcpus;
use crate::verdict::Verdict;
use crate::wire::{Channel, WireError};
use crate::{control, cpuid, monotonic_ns, registers};

/// Where KVM puts the task state segment that it needs on some Intel processors: in the gap, above the devices.
const TSS: usize = 0xfffb_d000;

/// Runs the machine that the monitor orders, up to its end.
///
/// # Errors
///
/// [`SetupError`] if there never was one. The monitor has been told.
pub fn run(channel: &Channel) -> Result<(), SetupError> {
    let running = match set_up(channel) {
        Ok(running) => running,
        Err(error) => {
            control::say_ended(channel, machine::EndReason::Setup(crate::chain(&error)), Vec::new());
            return Err(error);
        }
    };
    let kernel_log = || devices::kernel_log::read(&running.machine.memory, &running.log);
    let reason = control::converse(channel, &running.verdict, &kernel_log);
    running.vcpus.stop();
    running.bus.quiesce();
    control::say_ended(channel, reason, kernel_log());
    Ok(())
}

/// A machine whose vCPUs run.
struct Running {
    machine: Machine,
    bus: Arc<Bus>,
    vcpus: Vcpus,
    verdict: Arc<Verdict>,
    log: machine::KernelLogRegion,
}

fn set_up(channel: &Channel) -> Result<Running, SetupError> {
    let request = request::receive(channel)?;
    let Order::Launch(spec) = request.order else { return Err(WireError::OutOfOrder("Serve").into()) };
    spec_check::check(&spec, &request.files)?;
    let layout = layout::plan(&spec)?;
    let devices = devices::from_spec(&spec.disks, &spec.vsock, spec.shared_files.as_ref(), &request.files)?;
    let memory = memory::allocate(&layout.memory, Backing::of(&spec))?;
    let kvm = open_kvm(spec.vcpus)?;
    let machine = create_vm(&kvm, memory)?;
    let console = spec.console.map(|index| spec_check::file(&request.files, index, "console")).transpose()?;
    let bus = Arc::new(attach::attach(&machine.vm, &machine.memory, &layout.slots, devices, console)?);
    let entry = load(&machine.memory, &layout, &spec, &request.files)?;
    let vcpus = create_vcpus(&kvm, &machine.vm, spec.vcpus, entry)?;
    start(channel, machine, bus, vcpus, spec.kernel_log)
}

fn open_kvm(vcpus: u8) -> Result<Kvm, SetupError> {
    let kvm = Kvm::new().map_err(SetupError::OpenKvm)?;
    let limit = kvm.get_max_vcpus();
    if usize::from(vcpus) > limit {
        return Err(SetupError::Vcpus { vcpus, limit });
    }
    Ok(kvm)
}

/// Memory slots first, then the chips: on recent kernels the other order costs several milliseconds.
fn create_vm(kvm: &Kvm, memory: GuestMemoryMmap) -> Result<Machine, SetupError> {
    let vm = kvm.create_vm().map_err(kvm_error("create a virtual machine"))?;
    let machine = memory::register(vm, memory)?;
    machine.vm.set_tss_address(TSS).map_err(kvm_error("place the task state segment"))?;
    machine.vm.create_irq_chip().map_err(kvm_error("create the interrupt chips"))?;
    Ok(machine)
}

fn load(
    memory: &GuestMemoryMmap,
    layout: &MachineLayout,
    spec: &MachineSpec<FileIndex>,
    files: &[Arc<File>],
) -> Result<Entry, SetupError> {
    let mut kernel = &**spec_check::file(files, spec.kernel, "kernel")?;
    let mut initrd = &**spec_check::file(files, spec.initrd, "initrd")?;
    Ok(boot::load(memory, &layout.memory, &mut kernel, &mut initrd, &layout.command_line, spec.vcpus)?)
}

fn create_vcpus(kvm: &Kvm, vm: &VmFd, count: u8, entry: Entry) -> Result<Vec<VcpuFd>, SetupError> {
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(kvm_error("say what it supports"))?;
    let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    let vcpus = (0..count).map(|id| {
        let vcpu = vm.create_vcpu(id.into()).map_err(kvm_error("create a vCPU"))?;
        let entries = cpuid::for_vcpu(supported.as_slice(), id, count, tsc_deadline);
        let entries = CpuId::from_entries(&entries).map_err(|_| kvm_error("hold so many CPUID leaves")(e2big()))?;
        vcpu.set_cpuid2(&entries).map_err(kvm_error("set CPUID"))?;
        registers::set_firmware_msrs(&vcpu).map_err(kvm_error("set model-specific registers"))?;
        if id == 0 {
            registers::set_entry(&vcpu, entry).map_err(kvm_error("set the entry registers"))?;
        }
        Ok(vcpu)
    });
    vcpus.collect()
}

fn start(
    channel: &Channel,
    machine: Machine,
    bus: Arc<Bus>,
    vcpus: Vec<VcpuFd>,
    log: machine::KernelLogRegion,
) -> Result<Running, SetupError> {
    let verdict = Arc::new(Verdict::new().map_err(SetupError::Threads)?);
    let at = monotonic_ns();
    let vcpus = Vcpus::start(vcpus, &bus, &verdict).map_err(SetupError::Threads)?;
    // A monitor that is gone shows as a closed socket in a moment.
    let _ = channel.send(&FromMachine::Started { at });
    Ok(Running { machine, bus, vcpus, verdict, log })
}

fn e2big() -> kvm_ioctls::Error {
    kvm_ioctls::Error::new(libc::E2BIG)
}

fn kvm_error(action: &'static str) -> impl Fn(kvm_ioctls::Error) -> SetupError {
    move |source| SetupError::Kvm { action, source }
}

/// Why there is no machine.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The monitor.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The spec.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Its numbers.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// `/dev/kvm`.
    #[error("cannot open /dev/kvm")]
    OpenKvm(#[source] kvm_ioctls::Error),
    /// More vCPUs than this host's KVM takes.
    #[error("{vcpus} vCPUs are over this host's limit of {limit}")]
    Vcpus {
        /// How many were asked for.
        vcpus: u8,
        /// How many there may be.
        limit: usize,
    },
    /// A KVM call.
    #[error("KVM cannot {action}")]
    Kvm {
        /// What it was to do.
        action: &'static str,
        /// Its answer.
        source: kvm_ioctls::Error,
    },
    /// A device.
    #[error(transparent)]
    Device(#[from] devices::SpecError),
    /// A device's place in the machine.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Kernel and initrd.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Threads and their descriptors.
    #[error("cannot start threads")]
    Threads(#[source] io::Error),
}
