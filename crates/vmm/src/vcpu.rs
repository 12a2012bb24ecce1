//! vCPUs: a thread each that runs the guest until somebody says stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use machine::EndReason;
use vmm_sys_util::signal::Killable;

use crate::bus::{Bus, Outcome};
use crate::kick::{self, ImmediateExit};
use crate::verdict::Verdict;

/// Room for a vCPU's deepest call, a device activation, several times over. Only what is used costs memory.
const STACK: usize = 128 << 10;

/// Running vCPUs.
#[derive(Debug)]
pub struct Vcpus {
    threads: Vec<(JoinHandle<()>, ImmediateExit)>,
    stop: Arc<AtomicBool>,
}

impl Vcpus {
    /// Starts a thread for each of `vcpus`.
    ///
    /// # Errors
    ///
    /// If a thread cannot be made. Those that were run until the process ends.
    pub fn start(vcpus: Vec<VcpuFd>, bus: &Arc<Bus>, verdict: &Arc<Verdict>) -> io::Result<Self> {
        kick::prepare()?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::with_capacity(vcpus.len());
        for (id, vcpu) in vcpus.into_iter().enumerate() {
            let exit = ImmediateExit::of(&vcpu)?;
            let (bus, verdict, stop) = (Arc::clone(bus), Arc::clone(verdict), Arc::clone(&stop));
            let thread = thread::Builder::new()
                .name(format!("vcpu{id}"))
                .stack_size(STACK)
                .spawn(move || run(id, vcpu, &bus, &verdict, &stop))?;
            threads.push((thread, exit));
        }
        Ok(Self { threads, stop })
    }

    /// Stops all and waits for them; the guest executes nothing afterwards.
    pub fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for (thread, exit) in &self.threads {
            exit.set();
            // It fails only for a thread that has ended.
            let _ = thread.kill(kick::signal());
        }
        for (thread, _) in self.threads {
            let _ = thread.join();
        }
    }
}

fn run(id: usize, mut vcpu: VcpuFd, bus: &Bus, verdict: &Verdict, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        if let Some(reason) = step(&mut vcpu, bus) {
            verdict.reach(match reason {
                EndReason::Internal(text) => EndReason::Internal(format!("vCPU {id}: {text}")),
                reason => reason,
            });
            return;
        }
    }
}

/// Runs the guest up to its next exit and handles that.
fn step(vcpu: &mut VcpuFd, bus: &Bus) -> Option<EndReason> {
    let exit = match vcpu.run() {
        Ok(exit) => exit,
        Err(error) => return interrupted(error),
    };
    match exit {
        VcpuExit::IoIn(port, data) => bus.port_read(port, data),
        VcpuExit::IoOut(port, data) => {
            if bus.port_write(port, data) == Outcome::Reset {
                return Some(EndReason::Reset);
            }
        }
        VcpuExit::MmioRead(address, data) => bus.read(address, data),
        VcpuExit::MmioWrite(address, data) => bus.write(address, data),
        VcpuExit::Intr => {}
        VcpuExit::Shutdown => return Some(EndReason::TripleFault),
        VcpuExit::SystemEvent(event, _) => return Some(system_event(event)),
        VcpuExit::FailEntry(reason, cpu) => {
            return Some(EndReason::Internal(format!(
                "the processor refused the guest: reason {reason:#x} on CPU {cpu}"
            )));
        }
        VcpuExit::InternalError => return Some(EndReason::Internal(internal_error(vcpu))),
        VcpuExit::MemoryFault { flags, gpa, size } => {
            return Some(EndReason::Internal(format!(
                "the host has no memory for {size} bytes at guest address {gpa:#x} (flags {flags:#x})"
            )));
        }
        other => return Some(EndReason::Internal(format!("unexpected exit {other:?}"))),
    }
    None
}

fn interrupted(error: kvm_ioctls::Error) -> Option<EndReason> {
    match error.errno() {
        libc::EINTR | libc::EAGAIN => None,
        _ => Some(EndReason::Internal(format!("cannot run the guest: {}", io::Error::from(error)))),
    }
}

fn system_event(event: u32) -> EndReason {
    match event {
        KVM_SYSTEM_EVENT_SHUTDOWN | KVM_SYSTEM_EVENT_RESET => EndReason::Reset,
        KVM_SYSTEM_EVENT_CRASH => EndReason::Internal("the guest reported a crash to KVM".into()),
        other => EndReason::Internal(format!("unknown system event {other}")),
    }
}

/// What KVM says about an exit that it cannot explain otherwise.
pub fn internal_error(vcpu: &mut VcpuFd) -> String {
    let (suberror, data) = kick::internal_error_data(vcpu.get_kvm_run());
    let name = match suberror {
        1 => "an instruction that KVM cannot emulate",
        2 => "an exception while another was delivered",
        3 => "an event while another was delivered",
        4 => "an exit that KVM does not know",
        _ => "an unknown error",
    };
    let place = vcpu.get_regs().map_or_else(|_| "unknown".into(), |registers| format!("{:#x}", registers.rip));
    let data: Vec<_> = data.iter().map(|word| format!("{word:#x}")).collect();
    format!("KVM internal error {suberror} ({name}) at instruction {place}, data [{}]", data.join(", "))
}
