//! Settings that follow from others, written out: what `--dump-config` shows and a run keeps.
//!
//! What depends on the run's length (AdaLoRA's and Delta-LoRA's steps), follows the learning rate, or
//! is another number for every module stays unset; its documentation says what it then is.

use super::mask::default_directions;
use super::{Common, Method, MethodTable};

impl MethodTable {
    /// The same method with the defaults that follow from R and the method written out.
    pub(crate) fn resolved(&self) -> Self {
        let mut resolved = self.clone();
        let Self { method, common } = &mut resolved;
        if !method.has_rank() || common.rank == 0 {
            return resolved;
        }
        let rank = common.rank;
        // With patterns of ranks every module has its own.
        let is_uniform = common.rank_pattern.is_empty();
        let one = |set: &mut Option<usize>, value: usize| {
            if set.is_none() && is_uniform {
                *set = Some(value);
            }
        };
        match method {
            Method::AdaLora(own) => {
                own.first_rank.get_or_insert((3 * rank).div_ceil(2));
            }
            Method::Sora(own) => own.write_thresholds(),
            Method::DyLora(own) => one(&mut own.evaluated, rank),
            Method::PriLora(own) => {
                own.first_rank.get_or_insert(rank.div_ceil(2));
                own.last_rank.get_or_insert(2 * rank - rank.div_ceil(2));
            }
            Method::GmLora(own) => one(&mut own.mask.directions, default_directions(rank)),
            Method::RmLora(own) => one(&mut own.directions, default_directions(rank)),
            Method::Full(_)
            | Method::BitFit(_)
            | Method::Lora(_)
            | Method::RsLora(_)
            | Method::LoraPlus(_)
            | Method::Dora(_)
            | Method::Pissa(_)
            | Method::Olora(_)
            | Method::Vera(_)
            | Method::DeltaLora(_)
            | Method::BiLora(_)
            | Method::RLora(_) => {}
        }
        write_alpha(method, common);
        resolved
    }
}

/// α where it is R of every module, or R of those that a pattern names.
fn write_alpha(method: &Method, common: &mut Common) {
    if common.alpha.is_some() {
        return;
    }
    match method {
        // VeRA has none; PRILoRA's layers have an R each, and AdaLoRA's R₀ is cut to a module's size.
        Method::Vera(_) | Method::PriLora(_) | Method::AdaLora(_) => {}
        _ if common.rank_pattern.is_empty() => common.alpha = Some(common.rank as f64),
        _ if common.alpha_pattern.is_empty() => {
            common.alpha = Some(common.rank as f64);
            let ranks = common.rank_pattern.iter();
            common.alpha_pattern = ranks
                .map(|(name, rank)| (name.clone(), *rank as f64))
                .collect();
        }
        _ => {}
    }
}
