//! Batches made in the background, in order.
//!
//! Thread `t` of `T` makes the batches `t, t + T, t + 2T, …` and hands them over through its own
//! bounded channel; the reader takes from the channels in turn. So the order and, if the closure is a
//! function of its arguments, the values are the same at any number of threads, no lock is held, and
//! at most `T · (depth + 1)` batches exist ahead of the reader.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// An iterator over batches that threads make ahead of their use.
///
/// Dropping it stops and joins the threads. The first error ends the iteration.
///
/// ```
/// use rankwise_data::Prefetch;
/// let batches = vec![vec![3, 1], vec![2], vec![0, 4]];
/// let squares = Prefetch::new(batches, 2, 1, |_, items: &[usize]| {
///     Ok::<Vec<usize>, std::io::Error>(items.iter().map(|item| item * item).collect())
/// });
/// let squares = squares.collect::<Result<Vec<_>, _>>()?;
/// assert_eq!(squares, [vec![9, 1], vec![4], vec![0, 16]]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Prefetch<T, E> {
    /// One for every thread; emptied when the iteration ends.
    channels: Vec<Receiver<Result<T, E>>>,
    threads: Vec<Option<JoinHandle<()>>>,
    next: usize,
    batches: usize,
}

impl<T: Send + 'static, E: Send + 'static> Prefetch<T, E> {
    /// Starts `threads` threads (at least one), each at most `depth` (at least one) finished batches
    /// ahead. `load` gets a batch's number and its items; chance belongs into a stream named by them.
    pub fn new(
        batches: Vec<Vec<usize>>,
        threads: usize,
        depth: usize,
        load: impl Fn(usize, &[usize]) -> Result<T, E> + Send + Sync + 'static,
    ) -> Self {
        let count = batches.len();
        let threads = threads.clamp(1, count.max(1));
        let work = Arc::new((batches, load));
        let mut channels = Vec::with_capacity(threads);
        let mut handles = Vec::with_capacity(threads);
        for first in 0..threads {
            let (sender, receiver) = sync_channel(depth.max(1));
            let work = Arc::clone(&work);
            channels.push(receiver);
            handles.push(Some(std::thread::spawn(move || {
                let (batches, load) = &*work;
                for number in (first..batches.len()).step_by(threads) {
                    let batch = load(number, &batches[number]);
                    let failed = batch.is_err();
                    // The reader is gone, or stops here.
                    if sender.send(batch).is_err() || failed {
                        break;
                    }
                }
            })));
        }
        Self {
            channels,
            threads: handles,
            next: 0,
            batches: count,
        }
    }
}

impl<T, E> Iterator for Prefetch<T, E> {
    type Item = Result<T, E>;

    /// # Panics
    /// With what `load` panicked with.
    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.batches {
            return None;
        }
        let thread = self.next % self.channels.len();
        match self.channels[thread].recv() {
            Ok(batch) => {
                self.next = match batch {
                    Ok(_) => self.next + 1,
                    Err(_) => self.batches,
                };
                Some(batch)
            }
            Err(_) => {
                self.next = self.batches;
                // The thread ended before its last batch: it panicked.
                let ended = self.threads[thread].take().map(JoinHandle::join);
                match ended {
                    Some(Err(panic)) => resume_unwind(panic),
                    _ => None,
                }
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.batches - self.next))
    }
}

impl<T, E> Drop for Prefetch<T, E> {
    fn drop(&mut self) {
        // A thread that waits to hand over is told that nobody takes any more.
        self.channels.clear();
        for thread in self.threads.iter_mut().filter_map(Option::take) {
            // A panic has been passed on, or belongs to a batch that nobody asked for.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rand::Rng;

    use super::*;

    fn numbers(threads: usize, depth: usize) -> Vec<u64> {
        let batches = (0..57).map(|first| vec![first, first * 3]).collect();
        let load = |number: usize, items: &[usize]| {
            let mut rng = crate::stream(5, "test", number as u64);
            // Uneven work, so that threads overtake each other.
            std::thread::yield_now();
            Ok::<u64, ()>(rng.random::<u64>() ^ items[1] as u64)
        };
        Prefetch::new(batches, threads, depth, load)
            .collect::<Result<_, _>>()
            .unwrap()
    }

    #[test]
    fn the_same_at_any_thread_count() {
        let alone = numbers(1, 1);
        assert_eq!(alone.len(), 57);
        for (threads, depth) in [(0, 0), (2, 1), (3, 4), (7, 2), (100, 1)] {
            assert_eq!(numbers(threads, depth), alone, "{threads} threads");
        }
    }

    #[test]
    fn the_first_error_in_order_ends_it() {
        for threads in 1..5 {
            let batches = (0..20).map(|item| vec![item]).collect();
            let mut found = Vec::new();
            let load = |_: usize, items: &[usize]| match items[0] {
                item @ (11 | 12 | 17) => Err(item),
                item => Ok(item),
            };
            for batch in Prefetch::new(batches, threads, 1, load) {
                found.push(batch);
            }
            let expected: Vec<_> = (0..11).map(Ok).chain([Err(11)]).collect();
            assert_eq!(found, expected, "{threads} threads");
        }
    }

    #[test]
    fn dropping_joins_and_making_stays_bounded() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let batches = (0..1000).map(|item| vec![item]).collect();
        let mut batches = Prefetch::new(batches, 3, 2, move |_, items: &[usize]| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok::<_, ()>(items[0])
        });
        assert_eq!(batches.next(), Some(Ok(0)));
        drop(batches);
        // Joined: the closure is gone with its threads, and it made no more than was allowed ahead.
        assert_eq!(Arc::strong_count(&made), 1);
        let made = made.load(Ordering::SeqCst);
        assert!(made <= 1 + 3 * (2 + 1), "{made}");
    }

    #[test]
    #[should_panic(expected = "in the closure")]
    fn a_panic_is_passed_on() {
        let batches = vec![vec![0], vec![1]];
        let load = |_: usize, _: &[usize]| -> Result<(), ()> { panic!("in the closure") };
        Prefetch::new(batches, 2, 1, load).for_each(drop);
    }

    #[test]
    fn no_batches_are_none() {
        let mut none = Prefetch::new(vec![], 4, 1, |_, _: &[usize]| Ok::<(), ()>(()));
        assert_eq!(none.next(), None);
    }
}
