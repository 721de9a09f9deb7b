//! The order in which a run meets its training examples, and their batches, made in the background.
//!
//! Everything is addressed by the number of the epoch or step.

use std::convert::Infallible;

use rand::seq::SliceRandom;
use rankwise_data::{Prefetch, stream};

use super::Item;
use super::run::Run;
use crate::Error;
use crate::method::{Level, Step};

/// Batches that are made ahead of their use, by each thread.
const AHEAD: usize = 2;

/// The items of a step, or what is wrong with an item's image.
type Found = Vec<Result<Item, rankwise_data::Error>>;

impl Run<'_> {
    /// The step `number` of all.
    pub(super) fn at(&self, number: u64) -> Step {
        Step {
            number,
            of: self.steps,
            epoch: number / self.per_epoch,
            seed: self.config.seed,
        }
    }

    /// The items, less the bad ones that may be passed over.
    pub(super) fn take(&mut self, found: Found) -> Result<Vec<Item>, Error> {
        let mut items = Vec::with_capacity(found.len());
        for item in found {
            items.extend(self.data.skip.take(item)?);
        }
        Ok(items)
    }

    /// The batches of an epoch after the first `done`, made in the background.
    pub(super) fn batches(&self, epoch: u64, done: u64) -> Prefetch<Found, Infallible> {
        let mut batches = self.order(epoch);
        batches.drain(..(done as usize).min(batches.len()));
        let source = self.data.train.clone();
        let threads = rayon::current_num_threads();
        Prefetch::new(batches, threads, AHEAD, move |_, indices| {
            let items = indices.iter();
            Ok(items
                .map(|index| source.item(*index, Some(epoch)))
                .collect())
        })
    }

    /// The examples of every step of an epoch: the training set once, shuffled; of a method with two
    /// levels each step's from its own part, gone through as often as it takes.
    fn order(&self, epoch: u64) -> Vec<Vec<usize>> {
        let seed = self.config.seed;
        let size = self.config.schedule.examples();
        let shuffled = |mut items: Vec<usize>, name: &str, number: u64| {
            items.shuffle(&mut stream(seed, name, number));
            items
        };
        let all: Vec<usize> = (0..self.data.train.len()).collect();
        let Some(share) = self.trainer.tuned.rule.split() else {
            let order = shuffled(all, "shuffle", epoch);
            return order.chunks(size).map(<[usize]>::to_vec).collect();
        };
        // The same two parts in every epoch; neither is empty.
        let mut first = shuffled(all, "split", 0);
        let kept = (share * first.len() as f64).round() as usize;
        let second = first.split_off(first.len() - kept.clamp(1, first.len().max(2) - 1));
        let parts = [
            shuffled(first, "shuffle", epoch),
            shuffled(second, "shuffle second", epoch),
        ];
        let mut made = [0, 0];
        (0..self.per_epoch)
            .map(|number| {
                let step = self.at(epoch * self.per_epoch + number);
                let level = match self.trainer.tuned.rule.level(step) {
                    Level::First => 0,
                    Level::Second => 1,
                };
                let chunks = parts[level].len().div_ceil(size);
                let at = (made[level] % chunks) * size;
                made[level] += 1;
                parts[level].iter().skip(at).take(size).copied().collect()
            })
            .collect()
    }
}
