//! Working on several layers at once.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::Result;

/// Works on all items, `workers` at a time, begun in order, and returns the results in order. When one fails, the
/// others are told by `cancel` and none is begun any more; its error is returned.
pub(crate) fn in_parallel<I: Sync, T: Send>(
    workers: NonZeroUsize,
    items: &[I],
    cancel: &AtomicBool,
    work: impl Fn(&I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let worker = || {
        let mut done = Vec::new();
        while !cancel.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { break };
            match work(item) {
                Ok(result) => done.push((index, result)),
                // Who fails after the first may have failed for having been told to stop.
                Err(error) if !cancel.swap(true, Ordering::Relaxed) => {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
                Err(_) => {}
            }
        }
        done
    };
    let mut done = std::thread::scope(|scope| {
        let others: Vec<_> = (1..workers.get().min(items.len())).map(|_| scope.spawn(worker)).collect();
        let mut done = worker();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => {
            done.sort_unstable_by_key(|(index, _)| *index);
            Ok(done.into_iter().map(|(_, result)| result).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageError;

    fn run(items: &[u32], cancel: &AtomicBool, fails: u32) -> Result<Vec<u32>> {
        in_parallel(NonZeroUsize::new(4).unwrap(), items, cancel, |&n| {
            std::thread::sleep(std::time::Duration::from_millis(u64::from(7 - n % 7)));
            if n == fails { Err(ImageError::NoSuchImage { name: n.to_string() }) } else { Ok(n * 2) }
        })
    }

    #[test]
    fn results_come_in_order_and_the_first_failure_ends_it() {
        let items: Vec<u32> = (0..50).collect();
        let cancel = AtomicBool::new(false);
        assert_eq!(run(&items, &cancel, 99).unwrap(), items.iter().map(|n| n * 2).collect::<Vec<_>>());
        assert!(!cancel.load(Ordering::Relaxed));
        assert!(matches!(run(&items, &cancel, 20), Err(ImageError::NoSuchImage { name }) if name == "20"));
        assert!(cancel.load(Ordering::Relaxed));
        assert!(run(&[], &AtomicBool::new(false), 0).unwrap().is_empty());
    }
}
