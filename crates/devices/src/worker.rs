//! The thread in which a device works.
//!
//! An *engine* is the part of a device that works on queues. It has no thread: tests and fuzz targets call it
//! directly. [`Runner`] keeps it, either idle or lent to a worker thread that sleeps in epoll until a queue is
//! kicked, one of its other descriptors is ready, or it is asked to stop.
//!
//! Kick descriptors are watched edge-triggered and never read: a kick costs one wake-up and no further call.

use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, mem};

use rustix::event::{Timespec, epoll};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::chain::QueueError;
use crate::device::{ActivateError, Activation, ActiveQueue, Interrupt};

/// Events taken from the kernel at a time.
const EVENTS: usize = 64;

/// How a worker is asked to stop.
#[derive(Debug)]
pub(crate) struct Stop {
    requested: AtomicBool,
    event: EventFd,
}

impl Stop {
    /// Not requested yet.
    pub(crate) fn new() -> Result<Arc<Self>, ActivateError> {
        let event = EventFd::new(EFD_NONBLOCK)
            .map_err(|source| ActivateError::Host { what: "making the stop event", source })?;
        Ok(Arc::new(Self { requested: AtomicBool::new(false), event }))
    }

    fn request(&self) {
        self.requested.store(true, Ordering::Release);
        // A counter this far from its maximum takes every write.
        let _ = self.event.write(1);
    }

    /// Whether the worker is to end after the request at hand.
    pub(crate) fn requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Becomes readable with the request.
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }
}

struct Worker<E> {
    stop: Arc<Stop>,
    thread: JoinHandle<(E, Vec<Queue>)>,
}

enum State<E> {
    Idle(E),
    Running(Worker<E>),
    /// The worker could not be started, or died.
    Lost,
}

/// An engine and the thread it may be running in.
pub(crate) struct Runner<E>(State<E>);

impl<E> fmt::Debug for Runner<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Idle(_) => "Runner(idle)",
            State::Running(_) => "Runner(running)",
            State::Lost => "Runner(lost)",
        })
    }
}

impl<E: Send + 'static> Runner<E> {
    pub(crate) fn new(engine: E) -> Self {
        Self(State::Idle(engine))
    }

    /// The engine, while idle.
    pub(crate) fn idle(&mut self) -> Option<&mut E> {
        match &mut self.0 {
            State::Idle(engine) => Some(engine),
            _ => None,
        }
    }

    /// Runs `body` in a thread called `name` until it returns, which it does soon after [`Stop`] was requested.
    pub(crate) fn start(
        &mut self,
        name: &str,
        stop: Arc<Stop>,
        body: impl FnOnce(&mut E, &Stop) -> Vec<Queue> + Send + 'static,
    ) -> Result<(), ActivateError> {
        let refuse = |source| ActivateError::Host { what: "starting a thread", source };
        let State::Idle(mut engine) = mem::replace(&mut self.0, State::Lost) else {
            return Err(refuse(io::ErrorKind::ResourceBusy.into()));
        };
        let theirs = Arc::clone(&stop);
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            let queues = body(&mut engine, &theirs);
            (engine, queues)
        });
        self.0 = State::Running(Worker { stop, thread: thread.map_err(refuse)? });
        Ok(())
    }

    /// Stops the thread, if any; its queues.
    pub(crate) fn stop(&mut self) -> Vec<Queue> {
        let worker = match mem::replace(&mut self.0, State::Lost) {
            State::Running(worker) => worker,
            other => {
                self.0 = other;
                return Vec::new();
            }
        };
        worker.stop.request();
        let Ok((engine, queues)) = worker.thread.join() else { return Vec::new() };
        self.0 = State::Idle(engine);
        queues
    }
}

impl<E> Drop for Runner<E> {
    fn drop(&mut self) {
        if let State::Running(worker) = mem::replace(&mut self.0, State::Lost) {
            worker.stop.request();
            // A panic was already reported by its thread.
            let _ = worker.thread.join();
        }
    }
}

/// Something that became ready.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) token: u64,
    pub(crate) flags: epoll::EventFlags,
}

/// A set of descriptors to sleep on.
#[derive(Debug)]
pub(crate) struct Poller(OwnedFd);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Watches `fd` for `flags`, edge-triggered. What is ready already is reported once.
    pub(crate) fn add(&self, fd: impl AsFd, token: u64, flags: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, epoll::EventData::new_u64(token), flags | epoll::EventFlags::ET)?)
    }

    /// Stops watching `fd`.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        // Not watched is as good as no longer watched.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Sleeps until something is ready, or until `patience` is over; for ever without one.
    pub(crate) fn wait(&self, patience: Option<Duration>) -> Vec<Ready> {
        // What no clock can say is for ever.
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        let mut events = [MaybeUninit::uninit(); EVENTS];
        match epoll::wait(&self.0, &mut events, patience.as_ref()) {
            Ok((events, _)) => events
                .iter()
                .map(|event| {
                    let epoll::Event { flags, data } = *event;
                    Ready { token: data.u64(), flags }
                })
                .collect(),
            Err(rustix::io::Errno::INTR) => Vec::new(),
            // The descriptor and the buffer are ours: no other error exists.
            Err(error) => unreachable!("epoll_wait: {error}"),
        }
    }
}

/// Checks what a device with `required` queues is activated with.
pub(crate) fn check_queues(activation: &Activation, required: usize) -> Result<(), ActivateError> {
    for index in 0..required.max(activation.queues.len()) {
        let usable = activation.queues.get(index).is_some_and(|active| active.queue.is_valid(&activation.memory));
        if !usable {
            return Err(ActivateError::Queue(index));
        }
    }
    Ok(())
}

/// An engine whose queues are all served alike, each request finished before the next.
pub(crate) trait RequestEngine: Send + 'static {
    /// Serves some of the available requests; whether any was used. More may be left.
    fn process(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue, stop: Option<&Stop>)
    -> Result<bool, QueueError>;

    /// Whether it takes more requests off its queues before it has finished some that it holds.
    fn accepts_more(&self, _queue: &Queue) -> bool {
        true
    }

    /// In what time it can go on with requests that it holds, if it holds any.
    fn patience(&self) -> Option<Duration> {
        None
    }
}

/// The body of a worker for a [`RequestEngine`].
pub(crate) fn serve_requests<E: RequestEngine>(
    engine: &mut E,
    activation: Activation,
    poller: &Poller,
    stop: &Stop,
) -> Vec<Queue> {
    let Activation { memory, interrupt, mut queues, .. } = activation;
    let mut broken = vec![false; queues.len()];
    let mut dirty = vec![true; queues.len()];
    while !stop.requested() {
        for (index, ActiveQueue { queue, .. }) in queues.iter_mut().enumerate() {
            if !mem::take(&mut dirty[index]) || broken[index] {
                continue;
            }
            if serve_queue(engine, &memory, queue, index, &*interrupt, stop).is_err() {
                broken[index] = true;
                interrupt.needs_reset();
            }
        }
        if stop.requested() {
            break;
        }
        let patience = engine.patience();
        // What was held may go on now, whoever it was that woke us.
        dirty.fill(patience.is_some());
        for ready in poller.wait(patience) {
            if let Some(dirty) = usize::try_from(ready.token).ok().and_then(|index| dirty.get_mut(index)) {
                *dirty = true;
            }
        }
    }
    queues.into_iter().map(|active| active.queue).collect()
}

fn serve_queue<E: RequestEngine>(
    engine: &mut E,
    memory: &GuestMemoryMmap,
    queue: &mut Queue,
    index: usize,
    interrupt: &dyn Interrupt,
    stop: &Stop,
) -> Result<(), QueueError> {
    loop {
        queue.disable_notification(memory)?;
        let used = engine.process(memory, queue, Some(stop));
        if !matches!(used, Ok(false)) && queue.needs_notification(memory)? {
            interrupt.queue(u16::try_from(index).unwrap_or(u16::MAX));
        }
        let more = used? || (engine.accepts_more(queue) && queue.enable_notification(memory)?);
        if !more || stop.requested() {
            return Ok(());
        }
    }
}

/// A poller over the stop event and the kicks of `queues`, whose tokens are their indexes.
pub(crate) fn watch(queues: &[ActiveQueue], stop: &Stop) -> Result<Poller, ActivateError> {
    let refuse = |source| ActivateError::Host { what: "watching queues", source };
    let poller = Poller::new().map_err(refuse)?;
    poller.add(event_fd(stop.event()), STOP, epoll::EventFlags::IN).map_err(refuse)?;
    for (index, active) in queues.iter().enumerate() {
        poller.add(event_fd(&active.kick), index as u64, epoll::EventFlags::IN).map_err(refuse)?;
    }
    Ok(poller)
}

/// Token of the stop event.
pub(crate) const STOP: u64 = u64::MAX;

/// Borrows an event's descriptor.
pub(crate) fn event_fd(event: &EventFd) -> BorrowedFd<'_> {
    borrow::event(event)
}

mod borrow {
    // UNSAFETY: `EventFd` only gives a raw descriptor.
    #![allow(unsafe_code)]

    use std::os::fd::{AsRawFd, BorrowedFd};

    use vmm_sys_util::eventfd::EventFd;

    pub(super) fn event(event: &EventFd) -> BorrowedFd<'_> {
        // SAFETY: `event` owns the descriptor and is borrowed for as long as the result.
        unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
    }
}
