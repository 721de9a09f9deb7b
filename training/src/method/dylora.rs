//! DyLoRA (Valipour et al. 2023): LoRA whose directions are ordered, so that the trained update can
//! be cut to any rank.
//!
//! ```text
//! each step:  b from r_min … R, uniformly, one for all layers
//!             y += (α/b) B[:, :b] A[:b, :] drop(x)
//! ```
//!
//! Both cut factors are multiplied by √(R/b), so s = α/R becomes α/b. Directions beyond b stand
//! still, moments and all, as does everything but direction b in the frozen variant. A layer with a
//! smaller R than the largest uses all its directions for every b beyond.
//!
//! Layer and sampling are read from the authors' code, whose script trains the frozen variant (there
//! the other directions get a gradient of zero, so that what is left of Adam's momentum moves them) and
//! evaluates at every rank; the paper allows any distribution. The trained update is used, evaluated and
//! exported at one rank: in PEFT a plain LoRA of that rank b whose α is ours. Source: the paper's
//! algorithm 1; huawei-noah/Efficient-NLP (bb44348), `DyLoRA/`.

use rand::Rng;
use rankwise_data::stream;
use serde::{Deserialize, Serialize};

use super::product::{self, FirstValues};
use super::{Common, Made, Peft, Rule, Site, Step, setting};
use crate::Error;
use crate::engine::Parameters;
use crate::module::{ModuleId, Modules};

rankwise_data::documented! {
/// DyLoRA's own settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The smallest rank that is drawn.
    pub smallest: usize,
    /// Whether only the last of the drawn directions moves.
    pub frozen: bool,
    /// The rank of evaluation and export; by default R.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluated: Option<usize>,
    /// How A begins.
    pub initialisation: FirstValues,
}
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            smallest: 1,
            frozen: false,
            evaluated: None,
            initialisation: FirstValues::default(),
        }
    }
}

impl Settings {
    pub(super) fn rule(&self, common: &Common) -> Result<Box<dyn Rule>, Error> {
        let largest = common.rank_pattern.values().copied().max().unwrap_or(0);
        let largest = largest.max(common.rank);
        let expected = || format!("between 1 and the largest rank {largest}");
        if self.smallest == 0 || self.smallest > largest {
            return Err(setting("smallest", expected(), self.smallest));
        }
        match self.evaluated {
            Some(rank) if rank == 0 || rank > largest => {
                Err(setting("evaluated", expected(), rank))
            }
            _ => Ok(Box::new(DyLora {
                settings: self.clone(),
                sites: Vec::new(),
            })),
        }
    }
}

#[derive(Debug)]
struct DyLora {
    settings: Settings,
    /// Modules, their R and α.
    sites: Vec<(ModuleId, usize, f64)>,
}

impl DyLora {
    /// Cuts every module's update to `rank` directions.
    fn cut(&self, modules: &mut Modules, rank: usize, moves: bool) {
        for &(module, own, alpha) in &self.sites {
            let Some(adapter) = &mut modules[module].adapter else {
                continue;
            };
            let used = rank.min(own);
            adapter.used = (used < own).then_some(used);
            adapter.scale = alpha / used as f64;
            adapter.moving = match (moves, self.settings.frozen) {
                (true, true) => Some(vec![used as u32 - 1]),
                (true, false) if used < own => Some((0..used as u32).collect()),
                _ => None,
            };
        }
    }

    fn largest(&self) -> usize {
        self.sites.iter().map(|site| site.1).max().unwrap_or(1)
    }
}

impl Rule for DyLora {
    fn by_rows(&self) -> bool {
        true
    }

    fn attach(&mut self, mut site: Site<'_>) -> Result<(), Error> {
        let module = site.module.id;
        self.sites.push((module, site.rank, site.alpha));
        let used = self.settings.evaluated.unwrap_or(site.rank).min(site.rank);
        let scale = site.alpha / used as f64;
        product::attach(&mut site, self.settings.initialisation, scale)?;
        if let Some(adapter) = &mut site.module.adapter {
            adapter.used = (used < site.rank).then_some(used);
        }
        Ok(())
    }

    fn begin(&mut self, step: Step, modules: &mut Modules, _: &Parameters) -> Result<(), Error> {
        let range = self.settings.smallest..=self.largest();
        let rank = stream(step.seed, "dylora", step.number).random_range(range);
        self.cut(modules, rank, true);
        Ok(())
    }

    fn settle(&mut self, _: Made<'_>, modules: &mut Modules, _: &Parameters) -> Result<(), Error> {
        let rank = self.settings.evaluated.unwrap_or(self.largest());
        self.cut(modules, rank, false);
        Ok(())
    }

    fn peft(&self) -> Peft {
        self.settings.initialisation.peft()
    }
}
