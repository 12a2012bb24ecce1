//! A machine as the keeper needs it, so that tests can be one.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::Instant,
};

use monitor::{Machine, MachineEnd, MachineProcess, VsockError};

/// A machine.
pub(super) trait Hull {
    /// Its processes on the host.
    fn processes(&self) -> &[MachineProcess];
    /// Readable once it has ended.
    fn ended_fd(&self) -> BorrowedFd<'_>;
    /// Readable when the guest has connected.
    fn vsock_fd(&self) -> BorrowedFd<'_>;
    /// A connection of the guest.
    fn try_accept(&self) -> Result<Option<(u32, UnixStream)>, VsockError>;
    /// How it ended, if it has.
    fn wait(&self, deadline: Instant) -> Option<MachineEnd>;
    /// Ends it.
    fn stop(&self) -> MachineEnd;
    /// Stops its vCPUs.
    fn pause(&self) -> io::Result<()>;
    /// Lets them go on.
    fn resume(&self) -> io::Result<()>;
    /// Changes how much CPU it gets of the host, where the host bounds it.
    fn limit_cpu(&self, milli: u32);
    /// When its vCPUs started.
    fn started_at(&self) -> Option<u64>;
    /// The guest kernel's log.
    fn kernel_log(&self) -> Option<Vec<u8>>;
}

impl Hull for Machine {
    fn processes(&self) -> &[MachineProcess] {
        Self::processes(self)
    }

    fn ended_fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn vsock_fd(&self) -> BorrowedFd<'_> {
        self.vsock().as_fd()
    }

    fn try_accept(&self) -> Result<Option<(u32, UnixStream)>, VsockError> {
        self.vsock().try_accept()
    }

    fn wait(&self, deadline: Instant) -> Option<MachineEnd> {
        Self::wait(self, Some(deadline))
    }

    fn stop(&self) -> MachineEnd {
        Self::stop(self)
    }

    fn pause(&self) -> io::Result<()> {
        Self::pause(self)
    }

    fn resume(&self) -> io::Result<()> {
        Self::resume(self)
    }

    fn limit_cpu(&self, milli: u32) {
        // Where there is no bound, the guest's own holds alone, as `inspect` says.
        let _ = Self::limit_cpu(self, milli);
    }

    fn started_at(&self) -> Option<u64> {
        self.timings().started
    }

    fn kernel_log(&self) -> Option<Vec<u8>> {
        Self::kernel_log(self)
    }
}
