//! A machine's devices without the machine: each behind vhost-user, for an emulator that has the vCPUs.
//!
//! The emulator shares the guest's memory with us when it connects. Our mapping stays after the emulator is gone,
//! so the kernel's last lines can be read however it died.

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::{io, thread};

use devices::device::VirtioDevice;
use devices::vhost_user::{self, MemoryCell};
use machine::{EndReason, FromMachine, KernelLogRegion};
use thiserror::Error;

use crate::request::{self, Order};
use crate::spec_check::{self, SpecError};
use crate::verdict::Verdict;
use crate::wire::{Channel, WireError};
use crate::{control, monotonic_ns};

/// A device's vhost-user loop is shallow, but it starts workers and parses messages.
const STACK: usize = 256 << 10;

/// Serves the devices that the monitor orders, until the emulator goes or the monitor says stop.
///
/// # Errors
///
/// [`ServeError`] if they were never served. The monitor has been told.
pub fn run(channel: &Channel) -> Result<(), ServeError> {
    let memory = MemoryCell::default();
    let serving = match set_up(channel, &memory) {
        Ok(serving) => serving,
        Err(error) => {
            control::say_ended(channel, EndReason::Setup(crate::chain(&error)), Vec::new());
            return Err(error);
        }
    };
    let log = serving.log;
    let kernel_log = || memory.get().map_or_else(Vec::new, |memory| devices::kernel_log::read(&memory, &log));
    let reason = control::converse(channel, &serving.verdict, &kernel_log);
    serving.stop();
    control::say_ended(channel, reason, kernel_log());
    Ok(())
}

/// Devices that are being served.
struct Serving {
    log: KernelLogRegion,
    sockets: Vec<UnixStream>,
    threads: Vec<thread::JoinHandle<()>>,
    verdict: Arc<Verdict>,
}

impl Serving {
    /// Ends every device's loop; requests in flight are finished first.
    fn stop(self) {
        for socket in &self.sockets {
            // It fails only for a connection that is closed.
            let _ = socket.shutdown(Shutdown::Both);
        }
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

fn set_up(channel: &Channel, memory: &MemoryCell) -> Result<Serving, ServeError> {
    let request = request::receive(channel)?;
    let Order::Serve(spec, sockets) = request.order else { return Err(WireError::OutOfOrder("Launch").into()) };
    spec_check::check(&spec, &request.files)?;
    // The emulator has an entropy source and a balloon of its own: they stay out, at the end of the list. It speaks with
    // the daemon that has the shared files itself.
    let mut devices = devices::from_spec(&spec.disks, &spec.vsock, None, &request.files)?;
    devices.truncate(spec.disks.len() + 1);
    if sockets.len() != devices.len() {
        return Err(ServeError::Sockets { devices: devices.len(), sockets: sockets.len() });
    }
    let sockets = sockets
        .into_iter()
        .map(|index| {
            let file = spec_check::file(&request.files, index, "a device's socket")?;
            Ok(UnixStream::from(OwnedFd::from(file.try_clone().map_err(ServeError::Host)?)))
        })
        .collect::<Result<Vec<_>, ServeError>>()?;
    start(channel, spec.kernel_log, devices, sockets, memory)
}

fn start(
    channel: &Channel,
    log: KernelLogRegion,
    devices: Vec<Box<dyn VirtioDevice>>,
    sockets: Vec<UnixStream>,
    memory: &MemoryCell,
) -> Result<Serving, ServeError> {
    let verdict = Arc::new(Verdict::new().map_err(ServeError::Host)?);
    let mut threads = Vec::with_capacity(devices.len());
    for (number, (device, socket)) in devices.into_iter().zip(&sockets).enumerate() {
        let (socket, memory, verdict) =
            (socket.try_clone().map_err(ServeError::Host)?, memory.clone(), Arc::clone(&verdict));
        let serve = move || {
            verdict.reach(match vhost_user::serve(device, socket, &memory) {
                Ok(()) => EndReason::PeerClosed,
                Err(error) => EndReason::Internal(format!("device {number}: {}", crate::chain(&error))),
            });
        };
        let name = format!("device{number}");
        threads.push(thread::Builder::new().name(name).stack_size(STACK).spawn(serve).map_err(ServeError::Host)?);
    }
    // A monitor that is gone shows as a closed socket in a moment.
    let _ = channel.send(&FromMachine::Started { at: monotonic_ns() });
    Ok(Serving { log, sockets, threads, verdict })
}

/// Why devices were never served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The monitor.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The spec.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A device.
    #[error(transparent)]
    Device(#[from] devices::SpecError),
    /// Not a socket for each device.
    #[error("{sockets} sockets for {devices} devices")]
    Sockets {
        /// How many devices.
        devices: usize,
        /// How many sockets.
        sockets: usize,
    },
    /// Threads and descriptors.
    #[error("cannot start serving")]
    Host(#[source] io::Error),
}
