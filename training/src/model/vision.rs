//! A vision transformer: patches and a class token, blocks, and the class token normalised once more
//! and classified.

use candle_core::Result as TensorResult;

use super::block::Blocks;
use super::patches::PatchEmbedding;
use super::{Inputs, Pass};
use crate::engine::Var;
use crate::module::ModuleId;

#[derive(Debug, Clone)]
pub(crate) struct VisionTransformer {
    pub(super) embedding: PatchEmbedding,
    pub(super) blocks: Blocks,
    pub(super) norm: ModuleId,
    pub(super) classifier: ModuleId,
}

impl VisionTransformer {
    pub fn forward(&self, pass: Pass<'_>, inputs: &Inputs) -> TensorResult<Var> {
        let Some(pixels) = &inputs.pixels else {
            candle_core::bail!("a vision transformer: expected images, found none");
        };
        let design = self.blocks.design;
        let (embedded, lengths) = self.embedding.forward(pass, pixels)?;
        let hidden = pass.dropout(self.embedding.project, design.dropout, &embedded)?;
        let firsts = lengths.firsts();
        let hidden = self.blocks.forward(pass, hidden, &lengths, Some(&firsts))?;
        let hidden = pass.norm(self.norm, design.epsilon, &hidden)?;
        pass.linear(self.classifier, &hidden)
    }
}
