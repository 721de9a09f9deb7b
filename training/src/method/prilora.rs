//! PRILoRA (Benedek & Wolf 2024): ranks that grow with depth, and pruning of A by the size of what
//! its entries multiply.
//!
//! ```text
//! layer l of L:      R_l = round(r_s + (r_f − r_s)(l − 1)/(L − 1))
//! every step:        n_j ← 0.9 n_j + 0.1 ‖x_j‖₂       (feature j of the layer's input, whole batch)
//! every k steps:     S_ij = |A_ij| n_j;  the lowest half of A's entries go to 0
//! ```
//!
//! There is no lasting mask: pruned entries keep their moments and may grow again; B is never pruned.
//! The layer is the first number in a module's name; ranks of modules without one, or with a rank of
//! their own, stay. r_s and r_f are by default half and one and a half of `rank`, so that the mean is
//! `rank`. The rule of the ranks, the pruning of A alone and a moving average of the inputs are the
//! paper's, as its abstract and its reviews tell them; 0.9, 40, one half, 4 to 12 for R = 8, the group
//! and the rounding are settings whose defaults are from memory (the code attached to the paper could
//! not be read). Of embeddings, x is one-hot and ‖x_j‖₂ the root of how often entry j occurs. In PEFT:
//! a plain LoRA with `rank_pattern`. Source: Findings of EACL 2024, pages 252 to 263.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::product::{self, FirstValues};
use super::{
    Common, Made, Peft, Planned, Rule, Site, kept, numbers, setting, unknown_state, within,
};
use crate::Error;
use crate::engine::{ParameterId, Parameters};
use crate::module::{ModuleId, Modules};

/// How a rank between two whole numbers is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    /// To the nearest, halves up.
    #[default]
    Nearest,
    /// Down.
    Down,
    /// Up.
    Up,
}

/// Which entries of A are compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// All of a module's A.
    #[default]
    Matrix,
    /// Those of one direction.
    Direction,
}

rankwise_data::documented! {
/// PRILoRA's own settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// r_s, of the first layer; by default half of `rank`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_rank: Option<usize>,
    /// r_f, of the last layer; by default `rank` and a half of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_rank: Option<usize>,
    /// How ranks are rounded.
    pub rounding: Rounding,
    /// What the running mean of input norms keeps a step.
    pub decay: f64,
    /// The share of entries that is pruned.
    pub pruned: f64,
    /// Steps from one pruning to the next.
    pub period: u64,
    /// Which entries are compared.
    pub group: Group,
    /// How A begins.
    pub initialisation: FirstValues,
}
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            first_rank: None,
            last_rank: None,
            rounding: Rounding::default(),
            decay: 0.9,
            pruned: 0.5,
            period: 40,
            group: Group::default(),
            initialisation: FirstValues::default(),
        }
    }
}

impl Settings {
    pub(super) fn rule(&self, common: &Common) -> Result<Box<dyn Rule>, Error> {
        within("decay", self.decay, 0.0, 1.0)?;
        within("pruned", self.pruned, 0.0, 1.0)?;
        if self.period == 0 {
            return Err(setting("period", "at least 1", self.period));
        }
        let rank = common.rank;
        let first = self.first_rank.unwrap_or(rank.div_ceil(2));
        let last = self.last_rank.unwrap_or(2 * rank - rank.div_ceil(2));
        for (key, rank) in [("first_rank", first), ("last_rank", last)] {
            if rank == 0 {
                return Err(setting(key, "at least 1", rank));
            }
        }
        Ok(Box::new(PriLora {
            settings: self.clone(),
            ranks: (first, last),
            sites: BTreeMap::new(),
        }))
    }
}

#[derive(Debug)]
struct PriLora {
    settings: Settings,
    ranks: (usize, usize),
    sites: BTreeMap<ModuleId, Observed>,
}

/// A module's A and the norms of what it is multiplied with.
#[derive(Debug)]
struct Observed {
    name: String,
    a: ParameterId,
    rank: usize,
    /// n.
    norms: Vec<f64>,
}

/// The first number in a module's name.
fn layer(name: &str) -> Option<u64> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// R of layer `index` of `layers`.
pub(super) fn rank_of(
    (first, last): (usize, usize),
    index: usize,
    layers: usize,
    rounding: Rounding,
) -> usize {
    if layers < 2 {
        return (first + last) / 2;
    }
    let share = index as f64 / (layers - 1) as f64;
    let rank = first as f64 + (last as f64 - first as f64) * share;
    let rank = match rounding {
        Rounding::Nearest => (rank + 0.5).floor(),
        Rounding::Down => rank.floor(),
        Rounding::Up => rank.ceil(),
    };
    rank as usize
}

/// Sets the lowest `share` of the entries to zero, by |entry|·norm of its column; of equals those
/// that come first.
pub(super) fn prune(values: &mut [f64], norms: &[f64], share: f64) {
    let importance = |at: usize| values[at].abs() * norms[at % norms.len()];
    let mut order: Vec<_> = (0..values.len()).map(|at| (importance(at), at)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let count = (share * values.len() as f64) as usize;
    for (_, at) in &order[..count] {
        values[*at] = 0.0;
    }
}

impl Rule for PriLora {
    fn prepare(&mut self, plan: &mut [Planned<'_>]) -> Result<(), Error> {
        let of = |planned: &Planned<'_>| layer(&planned.module.declared.name);
        let layers: BTreeSet<_> = plan.iter().filter_map(of).collect();
        for planned in plan.iter_mut().filter(|planned| !planned.is_set) {
            let index = of(planned).and_then(|own| layers.iter().position(|layer| *layer == own));
            if let Some(index) = index {
                planned.rank = rank_of(self.ranks, index, layers.len(), self.settings.rounding);
            }
        }
        Ok(())
    }

    fn attach(&mut self, mut site: Site<'_>) -> Result<(), Error> {
        let scale = self.scale(site.alpha, site.rank);
        product::attach(&mut site, self.settings.initialisation, scale)?;
        let declared = &site.module.declared;
        let (name, inputs) = (declared.name.clone(), declared.inputs());
        let Some(adapter) = &mut site.module.adapter else {
            return Ok(());
        };
        adapter.observes = true;
        if let Some(a) = adapter.a.parameter() {
            let observed = Observed {
                name,
                a,
                rank: site.rank,
                norms: vec![0.0; inputs],
            };
            self.sites.insert(site.module.id, observed);
        }
        Ok(())
    }

    fn settle(
        &mut self,
        made: Made<'_>,
        _: &mut Modules,
        parameters: &Parameters,
    ) -> Result<(), Error> {
        let settings = &self.settings;
        for (module, site) in &mut self.sites {
            if let Some(squares) = made.gradients.observed(*module) {
                for (norm, square) in site.norms.iter_mut().zip(numbers(squares)?) {
                    *norm = settings.decay * *norm + (1.0 - settings.decay) * square.sqrt();
                }
            }
            if !(made.step.number + 1).is_multiple_of(settings.period) {
                continue;
            }
            let a = parameters.view(site.a);
            let mut values = numbers(a)?;
            let group = match settings.group {
                Group::Matrix => values.len(),
                Group::Direction => values.len() / site.rank,
            };
            for values in values.chunks_mut(group.max(1)) {
                prune(values, &site.norms, settings.pruned);
            }
            let values = Tensor::from_vec(values, a.dims(), &Device::Cpu)?;
            parameters.set(site.a, &values.to_device(a.device())?)?;
        }
        Ok(())
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let sites = self.sites.values();
        sites
            .filter_map(|site| {
                let norms = Tensor::new(site.norms.as_slice(), &Device::Cpu).ok()?;
                Some((format!("{}.input_norms", site.name), norms))
            })
            .collect()
    }

    fn restore(
        &mut self,
        state: &BTreeMap<String, Tensor>,
        _: &mut Modules,
        _: &Parameters,
    ) -> Result<(), Error> {
        for site in self.sites.values_mut() {
            let name = format!("{}.input_norms", site.name);
            let norms = numbers(kept(state, &name)?)?;
            if norms.len() != site.norms.len() {
                return Err(unknown_state(&format!("{name} of {} numbers", norms.len())));
            }
            site.norms = norms;
        }
        if state.len() != self.sites.len() {
            return Err(unknown_state("tensors of other modules"));
        }
        Ok(())
    }

    fn peft(&self) -> Peft {
        self.settings.initialisation.peft()
    }
}
