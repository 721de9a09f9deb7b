//! The embeddings of relative positions: how many, which of them a batch needs, which terms read
//! them.

use candle_core::Result as TensorResult;

use crate::Error;
use crate::engine::Var;
use crate::engine::disentangled::Distances;
use crate::model::config::ModelConfig;
use crate::model::{Inputs, Pass};
use crate::module::{Declaration, ModuleId};

/// What `pos_att_type` names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub content_to_position: bool,
    pub position_to_content: bool,
}

impl Terms {
    pub fn read(config: &ModelConfig) -> Result<Self, Error> {
        let names = config.texts("pos_att_type", '|')?;
        if let Some(other) = names.iter().find(|name| *name != "c2p" && *name != "p2c") {
            return Err(config.wrong("pos_att_type", "of c2p, p2c", format!("{other:?}")));
        }
        let has = |term: &str| names.iter().any(|name| name == term);
        Ok(Self {
            content_to_position: has("c2p"),
            position_to_content: has("p2c"),
        })
    }

    /// With the contents' own.
    pub fn count(self) -> usize {
        1 + usize::from(self.content_to_position) + usize::from(self.position_to_content)
    }
}

/// The embeddings of relative positions.
#[derive(Debug, Clone)]
pub(super) struct RelativeTable {
    table: ModuleId,
    norm: Option<ModuleId>,
    /// Half its rows.
    span: usize,
    /// Buckets on a side and the largest position, where distances share rows.
    buckets: Option<(usize, usize)>,
}

impl RelativeTable {
    pub fn declare(
        config: &ModelConfig,
        is_relative: bool,
        positions: usize,
        width: usize,
        modules: &mut Declaration,
    ) -> Result<Option<Self>, Error> {
        let names = config.texts("norm_rel_ebd", '|')?;
        let known = |name: &String| name == "layer_norm" || name == "none";
        if let Some(other) = names.iter().find(|name| !known(name)) {
            return Err(config.wrong(
                "norm_rel_ebd",
                "one of layer_norm, none",
                format!("{other:?}"),
            ));
        }
        let longest = match config.integer_or("max_relative_positions", -1)? {
            ..1 => positions,
            _ => config.size("max_relative_positions")?,
        };
        let buckets = match config.integer_or("position_buckets", -1)? {
            ..1 => None,
            // One bucket a side would leave nothing to take logarithms of.
            2.. => Some(config.size("position_buckets")?),
            1 => return Err(config.wrong("position_buckets", "none (−1) or at least 2", "1")),
        };
        let span = buckets.unwrap_or(longest);
        // A bare table: the reference reads it past any adapter.
        let table = is_relative
            .then(|| modules.table("deberta.encoder.rel_embeddings.weight", &[2 * span, width]));
        // Without relative attention the checkpoint has the norm nevertheless.
        let norm = names
            .iter()
            .any(|name| name == "layer_norm")
            .then(|| modules.norm("deberta.encoder.LayerNorm", width));
        Ok(table.map(|table| Self {
            table,
            norm,
            span,
            buckets: buckets.map(|count| (count, longest)),
        }))
    }

    /// The rows that the batch's distances need, normalised.
    pub fn rows(
        &self,
        pass: Pass<'_>,
        inputs: &Inputs,
        epsilon: f64,
    ) -> TensorResult<(Var, Distances)> {
        let longest = inputs.lengths.iter().map(|(_, length)| length).max();
        let distances = Distances::new(longest.unwrap_or(1), self.span, self.buckets);
        let rows = pass.embedding(self.table, &distances.entries())?;
        let rows = match self.norm {
            Some(norm) => pass.norm(norm, epsilon, &rows)?,
            None => rows,
        };
        Ok((rows, distances))
    }
}
