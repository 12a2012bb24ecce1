//! The one thread that does the network.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::error::RegistryError;

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A thread with a runtime, started by the first job. It ends with the value that started it; jobs still running then
/// are dropped.
#[derive(Debug, Default)]
pub(crate) struct Background {
    jobs: Mutex<Option<UnboundedSender<Job>>>,
}

impl Background {
    /// Starts a job.
    pub(crate) fn spawn(&self, job: impl Future<Output = ()> + Send + 'static) -> Result<(), RegistryError> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let job: Job = Box::pin(job);
        let job = match jobs.as_ref() {
            Some(sender) => match sender.send(job) {
                Ok(()) => return Ok(()),
                Err(unsent) => unsent.0,
            },
            None => job,
        };
        let sender = start().map_err(RegistryError::Thread)?;
        sender.send(job).map_err(|_| RegistryError::Thread(ended()))?;
        *jobs = Some(sender);
        Ok(())
    }

    /// Runs a job and waits for what it gives.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
    ) -> Result<T, RegistryError> {
        self.start(job)?.wait()
    }

    /// Starts a job whose outcome is waited for later.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        job: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
    ) -> Result<Outcome<T>, RegistryError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.spawn(async move {
            // Nobody waits any more: then nobody misses it.
            let _ = sender.send(job.await);
        })?;
        Ok(Outcome(receiver))
    }
}

/// What a job will give.
#[derive(Debug)]
pub(crate) struct Outcome<T>(mpsc::Receiver<Result<T, RegistryError>>);

impl<T> Outcome<T> {
    /// Waits for it.
    pub(crate) fn wait(self) -> Result<T, RegistryError> {
        self.0.recv().unwrap_or_else(|_| Err(RegistryError::Thread(ended())))
    }
}

fn ended() -> io::Error {
    io::Error::other("it ended before its job")
}

fn start() -> io::Result<UnboundedSender<Job>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let (sender, jobs) = unbounded_channel();
    thread::Builder::new().name("registry".into()).spawn(move || {
        runtime.block_on(serve(jobs));
        // A name that is still being looked up holds nobody up.
        runtime.shutdown_background();
    })?;
    Ok(sender)
}

async fn serve(mut jobs: UnboundedReceiver<Job>) {
    while let Some(job) = jobs.recv().await {
        drop(tokio::spawn(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_on_one_thread_and_give_their_outcome() {
        let background = Background::default();
        let name = || async { Ok(thread::current().name().map(str::to_owned)) };
        assert_eq!(background.run(name()).unwrap().as_deref(), Some("registry"));
        let id = || async { Ok(thread::current().id()) };
        assert_eq!(background.run(id()).unwrap(), background.run(id()).unwrap());
    }

    #[test]
    fn a_job_that_panics_fails_alone() {
        let background = Background::default();
        let lost: Result<(), _> = background.run(async { panic!("a job's own panic, part of this test") });
        assert!(matches!(lost, Err(RegistryError::Thread(_))));
        assert_eq!(background.run(async { Ok(7) }).unwrap(), 7);
    }
}
