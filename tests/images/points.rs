//! Going through hundreds of points at which something goes wrong, and saying of all of them what came of it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;

/// How many points are tried at the same time.
const WORKERS: usize = 2;

/// How many failures are shown in full.
const SHOWN: usize = 8;

/// Calls `attempt` with everything that `points` yields until it answers `false` or there is no more; gives back how
/// many it answered `true` for.
///
/// A point that fails does not keep the others from being tried.
///
/// # Panics
///
/// If any point failed, with the first of them.
pub(crate) fn try_all<T: Send>(points: impl Iterator<Item = T> + Send, attempt: impl Fn(T) -> bool + Sync) -> usize {
    let points = Mutex::new(Some(points));
    let failures = Mutex::new(Vec::new());
    let next = || points.lock().expect("a queue").as_mut()?.next();
    let worker = || {
        let mut done = 0;
        while let Some(point) = next() {
            match catch_unwind(AssertUnwindSafe(|| attempt(point))) {
                Ok(true) => done += 1,
                Ok(false) => *points.lock().expect("a queue") = None,
                Err(panic) => failures.lock().expect("failures").push(message(panic.as_ref())),
            }
        }
        done
    };
    let done = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker catches what fails")).sum()
    });
    let failures = failures.into_inner().expect("failures");
    assert!(
        failures.is_empty(),
        "{} points failed, {done} did not:\n{}",
        failures.len(),
        failures[..failures.len().min(SHOWN)].join("\n")
    );
    done
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}
