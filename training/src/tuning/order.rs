//! The order in which a run meets its training examples, and their batches, made in the background.
//!
//! Everything is addressed by the number of the epoch or step.

use std::convert::Infallible;

use rand::seq::SliceRandom;
use rankwise_data::{Prefetch, stream};

use super::Item;
use super::run::Run;
use crate::Error;
use crate::method::{Level, Rule, Step, setting};

/// Batches that are made ahead of their use, by each thread.
const AHEAD: usize = 2;

/// The items of a step, or what is wrong with an item's image.
pub(super) struct Found {
    items: Vec<Result<Item, rankwise_data::Error>>,
    /// Number and good items of the step that the method looks back to.
    pub earlier: Option<(u64, Vec<Item>)>,
}

/// Steps of an epoch: the training examples once; of a method with two levels the first part once,
/// and the steps of the second level beside them.
///
/// # Errors
/// [`Error::Setting`] if there are too few examples for two parts.
pub(super) fn steps_of_epoch(rule: &dyn Rule, examples: usize, size: usize) -> Result<u64, Error> {
    match rule.split() {
        None => Ok(examples.div_ceil(size) as u64),
        Some(_) if examples < 2 => Err(setting(
            "second_share",
            "two training examples or more to share out",
            examples,
        )),
        Some(share) => {
            let first = examples - second_part(share, examples);
            Ok(rule.with_second(first.div_ceil(size) as u64))
        }
    }
}

/// How many of `examples`, at least two, the second level has: neither part is empty.
fn second_part(share: f64, examples: usize) -> usize {
    let part = (share * examples as f64).round() as usize;
    part.clamp(1, examples - 1)
}

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
    pub(super) fn take(&mut self, found: &mut Found) -> Result<Vec<Item>, Error> {
        let mut items = Vec::with_capacity(found.items.len());
        for item in found.items.drain(..) {
            items.extend(self.data.skip.take(item)?);
        }
        Ok(items)
    }

    /// The batches of an epoch after the first `done`, made in the background.
    pub(super) fn batches(&self, epoch: u64, done: u64) -> Prefetch<Found, Infallible> {
        let mut batches = self.order(epoch);
        let first = epoch * self.per_epoch;
        let looks_back = |number| {
            let earlier = self.trainer.tuned.rule.looks_back(self.at(number))?;
            let (of, at) = (
                earlier / self.per_epoch,
                (earlier % self.per_epoch) as usize,
            );
            let indices = match of == epoch {
                true => batches[at].clone(),
                false => self.order(of).swap_remove(at),
            };
            Some((earlier, of, indices))
        };
        let numbers = first + done.min(self.per_epoch)..first + self.per_epoch;
        let earlier: Vec<_> = numbers.map(looks_back).collect();
        batches.drain(..(done as usize).min(batches.len()));
        let source = self.data.train.clone();
        let threads = rayon::current_num_threads();
        Prefetch::new(batches, threads, AHEAD, move |at, indices| {
            let item = |index: &usize, epoch| source.item(*index, Some(epoch));
            let good = |(number, epoch, indices): &(u64, u64, Vec<usize>)| {
                let items = indices.iter().filter_map(|index| item(index, *epoch).ok());
                let items: Vec<_> = items.collect();
                (!items.is_empty()).then_some((*number, items))
            };
            Ok(Found {
                items: indices.iter().map(|index| item(index, epoch)).collect(),
                earlier: earlier[at].as_ref().and_then(good),
            })
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
        let second = first.split_off(first.len() - second_part(share, first.len()));
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
