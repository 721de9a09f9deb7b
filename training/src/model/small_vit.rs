//! Small vision transformers as people write them for CIFAR-10 with PyTorch's own modules: two
//! layouts, recognised by the names and shapes of their tensors, since such checkpoints have no
//! configuration.
//!
//! | layout | blocks | head |
//! |---|---|---|
//! | [`POST_NORM`] | `nn.TransformerEncoderLayer` as it is by default: h ← LN(h + attention(h)), h ← LN(h + W₂ relu(W₁ h)) | normalisation, projection |
//! | [`PRE_NORM`] | h ← h + attention(LN(h)), h ← h + W₂ gelu(W₁ LN(h)) | the same |
//!
//! Both put a class token before the patches, add learned positions, project queries, keys and values
//! by one matrix (`in_proj_weight`), and normalise with ε = 10⁻⁵.
//!
//! How many heads there are cannot be read from shapes: heads of [`HEAD_WIDTH`] numbers are assumed,
//! which both known checkpoints have (8 of 128 and 4 of 64). Nor can the mean and deviation of the
//! images' colours: those of the known checkpoints are assumed. A file [`OVERRIDE`] beside the weights,
//! a JSON object such as `{"num_attention_heads": 8}`, replaces any value.

use std::path::Path;

use rankwise_analysis::Checkpoint;
use serde_json::{Map, Value, json};

use super::Head;
use super::block::{Block, Blocks, Design, Projections, Rest};
use super::config::ModelConfig;
use super::patches::PatchEmbedding;
use super::vision::VisionTransformer;
use crate::Error;
use crate::module::Declaration;

/// `model_type` of the layout with normalisation after each half of a block.
pub(crate) const POST_NORM: &str = "small-vit-post-norm";

/// `model_type` of the layout with normalisation before.
pub(crate) const PRE_NORM: &str = "small-vit-pre-norm";

/// Numbers in a head, where nothing says otherwise.
const HEAD_WIDTH: usize = 16;

/// The file that replaces values that were read from shapes or assumed.
const OVERRIDE: &str = "rankwise-model.json";

/// Names of a layout's tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Layout {
    model_type: &'static str,
    is_pre_norm: bool,
    activation: &'static str,
    patches: &'static str,
    /// Before a block's number.
    blocks: &'static str,
    attention: &'static str,
    inner: &'static str,
    output: &'static str,
    head: &'static str,
    /// What the known checkpoint of the layout was trained with, by red, green and blue.
    mean: [f64; 3],
    deviation: [f64; 3],
}

const LAYOUTS: [Layout; 2] = [
    Layout {
        model_type: POST_NORM,
        is_pre_norm: false,
        activation: "relu",
        patches: "patch_embed.proj",
        blocks: "transformer.layers",
        attention: "self_attn",
        inner: "linear1",
        output: "linear2",
        head: "mlp_head",
        mean: [0.4914, 0.4822, 0.4465],
        deviation: [0.2023, 0.1994, 0.2010],
    },
    Layout {
        model_type: PRE_NORM,
        is_pre_norm: true,
        activation: "gelu",
        patches: "patch_embedding.embed",
        blocks: "transformer_layers",
        attention: "attention",
        inner: "mlp.0",
        output: "mlp.2",
        head: "out_head",
        mean: [0.0; 3],
        deviation: [1.0; 3],
    },
];

impl Layout {
    /// The layout of a `model_type`.
    pub fn of(model_type: &str) -> Option<Self> {
        LAYOUTS
            .into_iter()
            .find(|layout| layout.model_type == model_type)
    }

    /// The configuration that the tensors of `checkpoint` give away, if they are of this layout.
    fn recognised(self, checkpoint: &Checkpoint) -> Option<Map<String, Value>> {
        let shape = |name: String| checkpoint.shape(&name);
        let &[width, channels, patch, _] = shape(format!("{}.weight", self.patches))? else {
            return None;
        };
        let &[_, positions, _] = shape("pos_embed".to_owned())? else {
            return None;
        };
        let &[classes, _] = shape(format!("{}.1.weight", self.head))? else {
            return None;
        };
        let inner = |layer: usize| shape(format!("{}.{layer}.{}.weight", self.blocks, self.inner));
        let layers = (0..).take_while(|layer| inner(*layer).is_some()).count();
        let &[inner, _] = inner(0)? else {
            return None;
        };
        let side = positions.checked_sub(1)?.isqrt();
        let mut values = Map::new();
        values.insert("model_type".to_owned(), self.model_type.into());
        for (key, value) in [
            ("hidden_size", width),
            ("num_channels", channels),
            ("patch_size", patch),
            ("image_size", side.saturating_mul(patch)),
            ("num_labels", classes),
            ("num_hidden_layers", layers),
            ("intermediate_size", inner),
        ] {
            values.insert(key.to_owned(), value.into());
        }
        values.insert("image_mean".to_owned(), json!(self.mean));
        values.insert("image_std".to_owned(), json!(self.deviation));
        if width.is_multiple_of(HEAD_WIDTH) {
            values.insert(
                "num_attention_heads".to_owned(),
                (width / HEAD_WIDTH).into(),
            );
        }
        Some(values)
    }
}

/// The configuration of a folder without one, if its tensors are of a known layout.
///
/// # Errors
/// [`Error::Data`] or [`Error::Model`] if there is a file [`OVERRIDE`] that cannot be read.
pub(crate) fn recognised(folder: &Path) -> Result<Option<ModelConfig>, Error> {
    let Ok(checkpoint) = Checkpoint::open(folder) else {
        return Ok(None);
    };
    let mut layouts = LAYOUTS.into_iter();
    let Some(values) = layouts.find_map(|layout| layout.recognised(&checkpoint)) else {
        return Ok(None);
    };
    let path = folder.join(OVERRIDE);
    let config = ModelConfig::of(values, path.clone());
    if !path.exists() {
        return Ok(Some(config));
    }
    let text = rankwise_data::read_text(&path)?;
    Ok(Some(config.with(ModelConfig::parse(&text, path)?)))
}

/// The model that a configuration of one of the layouts describes.
pub(crate) fn declare(
    config: &ModelConfig,
    head: Head,
    modules: &mut Declaration,
) -> Result<VisionTransformer, Error> {
    let model_type = config.model_type()?;
    let Some(layout) = Layout::of(model_type) else {
        return Err(config.wrong(
            "model_type",
            format!("{POST_NORM} or {PRE_NORM}"),
            model_type,
        ));
    };
    let Head::Classes(classes) = head else {
        return Err(config.wrong("model_type", "a model of text for this task", model_type));
    };
    let width = config.size("hidden_size")?;
    let design = Design::as_in_bert(config, layout.is_pre_norm, 1e-5, layout.activation, 0.0)?;
    let inner = config.size("intermediate_size")?;
    let patch = config.size("patch_size")?;
    let side = config.size("image_size")? / patch;
    let channels = config.size_or("num_channels", Some(3))?;
    let names = ["cls_token", "pos_embed", layout.patches];
    let embedding = PatchEmbedding::declare(modules, names, width, channels, patch, side);
    let blocks = (0..config.layers("num_hidden_layers")?)
        .map(|layer| {
            let name = |part: &str| format!("{}.{layer}.{part}", layout.blocks);
            let attention = |part: &str| name(&format!("{}.{part}", layout.attention));
            Block {
                projections: Projections::Packed(modules.linear(
                    &attention("in_proj"),
                    width,
                    3 * width,
                )),
                scale: design.scale(width),
                rest: Rest {
                    attention_output: modules.linear(&attention("out_proj"), width, width),
                    attention_norm: modules.norm(&name("norm1"), width),
                    intermediate: modules.linear(&name(layout.inner), width, inner),
                    output: modules.linear(&name(layout.output), inner, width),
                    output_norm: modules.norm(&name("norm2"), width),
                },
            }
        })
        .collect();
    let norm = modules.norm(&format!("{}.0", layout.head), width);
    let classifier = modules.linear(&format!("{}.1", layout.head), width, classes);
    modules.head_from(classifier);
    Ok(VisionTransformer {
        embedding,
        blocks: Blocks { design, blocks },
        norm,
        classifier,
    })
}
