//! The gradient mask of the paper's Algorithm 1: a step moves r̂ of the R directions of every module,
//! row i of A with column i of B.
//!
//! “Partial update” is meant literally: the other directions keep value and moments and get no
//! weight decay, and of their gradient nothing is computed. A setting lets their moments decay
//! instead (a masked gradient of zero fed to the optimiser), which moves them by what is left of
//! their momentum. The index ranges printed in Algorithm 1 (j up to R in A's mask, i up to R in B's)
//! are misprints: a row of A has as many entries as the layer has inputs. The algorithm draws every
//! step, the introduction says every epoch: a setting.

use rand::Rng;
use rand::seq::index;
use rankwise_data::stream;
use serde::{Deserialize, Serialize};

use super::{Common, Step, setting};
use crate::Error;
use crate::module::Modules;

/// r̂ as a share of R where the configuration gives none, rounded; from the last-layer protocol's
/// recorded search (`paper/search/`).
const DEFAULT_SHARE: f64 = 0.75;

/// r̂ of R directions where the configuration gives none.
pub(crate) fn default_directions(rank: usize) -> usize {
    ((rank as f64 * DEFAULT_SHARE).round() as usize).max(1)
}

/// Draws `directions` of the first `rank` numbers, in their order.
pub(crate) fn drawn(rng: &mut impl Rng, rank: usize, directions: usize) -> Vec<u32> {
    let mut drawn: Vec<u32> = index::sample(rng, rank, directions)
        .into_iter()
        .map(|direction| direction as u32)
        .collect();
    drawn.sort_unstable();
    drawn
}

/// How often a mask is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Period {
    /// Every step (Algorithm 1).
    #[default]
    Step,
    /// Every epoch (the paper's introduction).
    Epoch,
}

/// What becomes of the directions that a mask leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unselected {
    /// They keep value and moments and get no weight decay: a “partial update”, literally.
    #[default]
    Still,
    /// They get a gradient of zero: their moments decay, and momentum and weight decay move them.
    Moments,
}

rankwise_data::documented! {
/// The mask's settings.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mask {
    /// r̂: directions that a step moves; by default three quarters of every module's R, rounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directions: Option<usize>,
    /// How often a mask is drawn.
    pub mask: Period,
    /// What becomes of the directions that it leaves out.
    pub unselected: Unselected,
}
}

impl Mask {
    pub(super) fn check(&self, common: &Common) -> Result<(), Error> {
        match self.directions {
            Some(directions) if directions == 0 || directions > common.rank => {
                let expected = format!("between 1 and the rank {}", common.rank);
                Err(setting("directions", expected, directions))
            }
            _ => Ok(()),
        }
    }

    /// r̂ of a module of rank `rank`.
    fn directions_of(&self, rank: usize) -> usize {
        self.directions
            .unwrap_or(default_directions(rank))
            .min(rank)
    }

    /// Draws the directions of a step.
    pub(super) fn draw(&self, step: Step, ranks: &[(usize, usize)], modules: &mut Modules) {
        let number = match self.mask {
            Period::Step => step.number,
            Period::Epoch => step.epoch,
        };
        let mut rng = stream(step.seed, "mask", number);
        for (module, rank) in ranks {
            let Some(adapter) = &mut modules.0[*module].adapter else {
                continue;
            };
            let moving = drawn(&mut rng, *rank, self.directions_of(*rank));
            adapter.moving = (moving.len() < *rank).then_some(moving);
            adapter.drifts = self.unselected == Unselected::Moments;
        }
    }
}
