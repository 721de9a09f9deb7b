//! Where a layout states what B A is multiplied with, and how a new rank is stated there.
//!
//! | holder | s |
//! |---|---|
//! | diffusers' metadata, `lora_adapter_metadata` | α/R or α/√R of the pipeline's part |
//! | an `.alpha` tensor | α/R |
//! | `adapter_config.json` | α/R or α/√R |
//! | mlx-lm's configuration | its `scale`, one for all modules |
//! | nothing | 1 by the loaders' custom, or unknown |
//!
//! An α that its place cannot hold exactly is rounded first: the factors are made for the scale that a
//! loader will find.

use std::collections::BTreeMap;

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::configuration::{Configuration, Setting, set_ranks};
use super::{Made, NewScale, parsed};
use crate::Error;
use crate::adapter::{Adapter, Format, Module, Number, Place};
use crate::container::numbers::{decode, encode};
use crate::writer::{Content, NewTensor};

/// The metadata's key.
const METADATA: &str = "lora_adapter_metadata";

/// The parts of a pipeline that diffusers knows.
const PARTS: [&str; 6] = [
    "unet",
    "transformer",
    "transformer_2",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
];

/// What states the scale of a module.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Holder {
    /// The settings of this part of the pipeline, and the module's name in it.
    Metadata { part: String, module: String },
    /// A tensor.
    Tensor,
    /// The configuration.
    Configuration,
    /// mlx-lm's configuration.
    Mlx,
    /// Nothing: 1.
    Custom,
    /// Nothing, and there is no custom.
    Unknown,
}

/// α at a new rank, and the scale that follows from it.
pub(super) struct Stated {
    pub alpha: f64,
    pub scale: f64,
    pub tensor: Option<NewTensor>,
}

/// What is known of the places.
pub(super) struct Scales {
    format: Format,
    metadata: Option<Map<String, Value>>,
    has_method: bool,
    is_root: bool,
}

impl Scales {
    pub fn new(
        adapter: &Adapter,
        configuration: Option<&Configuration>,
        texts: &Map<String, Value>,
    ) -> Self {
        // Another method's configuration becomes one of LoRA, where α/R is the rule.
        let is_lora = |c: &&Configuration| matches!(c.method(), None | Some("LORA"));
        Self {
            format: adapter.format,
            metadata: parsed(texts, METADATA),
            has_method: configuration.is_some(),
            is_root: configuration
                .filter(is_lora)
                .is_some_and(|c| c.is("use_rslora")),
        }
    }

    /// What states the scale of a module.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if it should be the configuration, but the configuration has no α.
    pub fn holder(&self, module: &Module, place: &Place) -> Result<Holder, Error> {
        if let (Some(metadata), Some((part, inner))) = (&self.metadata, module.raw.split_once('.'))
            && metadata.contains_key(&format!("{part}.lora_alpha"))
        {
            let (part, module) = (part.to_owned(), inner.to_owned());
            return Ok(Holder::Metadata { part, module });
        }
        if place.alpha.is_some() {
            return Ok(Holder::Tensor);
        }
        match self.format {
            Format::Mlx if module.scale.is_some() => Ok(Holder::Mlx),
            Format::Mlx => Ok(Holder::Unknown),
            Format::Kohya | Format::Lycoris | Format::Diffusers | Format::Cloneofsimo => {
                Ok(Holder::Custom)
            }
            Format::Peft | Format::Loralib | Format::Torchtune => {
                match (self.has_method, module.scale) {
                    (false, _) => Ok(Holder::Unknown),
                    (true, Some(_)) => Ok(Holder::Configuration),
                    (true, None) => Err(Error::Mismatch {
                        what: "lora_alpha in adapter_config.json",
                        expected: "a number".to_owned(),
                        found: "none, so that the scale is unknown".to_owned(),
                    }),
                }
            }
        }
    }

    /// α for a scale at a rank, and its tensor if there is one to be written.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if α is beyond its tensor's range.
    pub fn alpha(
        &self,
        holder: &Holder,
        wanted: f64,
        rank: usize,
        tensor: Option<&Number>,
    ) -> Result<Stated, Error> {
        let rank = rank as f64;
        let is_root = match holder {
            Holder::Metadata { part, .. } => self.metadata.as_ref().is_some_and(|metadata| {
                metadata.get(&format!("{part}.use_rslora")) == Some(&Value::Bool(true))
            }),
            Holder::Tensor | Holder::Configuration => self.is_root,
            Holder::Mlx | Holder::Custom | Holder::Unknown => {
                let scale = if *holder == Holder::Mlx { wanted } else { 1.0 };
                return Ok(Stated {
                    alpha: rank,
                    scale,
                    tensor: None,
                });
            }
        };
        let divisor = if is_root { rank.sqrt() } else { rank };
        let mut alpha = wanted * divisor;
        // The α that a scale came from is mostly a whole number.
        if (alpha - alpha.round()).abs() <= 4.0 * f64::EPSILON * alpha.abs() {
            alpha = alpha.round();
        }
        let mut written = None;
        if let Some(number) = tensor {
            let (bytes, rounded) = rounded(alpha, number.dtype)?;
            alpha = rounded;
            written = Some(NewTensor {
                name: number.name.clone(),
                dtype: number.dtype,
                shape: number.shape.clone(),
                content: Content::Made(bytes),
            });
        }
        Ok(Stated {
            alpha,
            scale: alpha / divisor,
            tensor: written,
        })
    }

    /// States the new ranks and α in the configuration and the metadata, and says what a reader of the
    /// record should know.
    pub fn write(
        &self,
        made: &[Made],
        others: bool,
        scale: NewScale,
        configuration: Option<&mut Configuration>,
        texts: &mut Map<String, Value>,
    ) -> Result<Vec<String>, Error> {
        let mut notes = Vec::new();
        let mut metadata = self.metadata.clone();
        let of = |wanted: &dyn Fn(&Holder) -> Option<String>| -> Vec<Setting> {
            let settings = made.iter().filter_map(|one| {
                Some(Setting {
                    name: wanted(&one.holder)?,
                    rank: one.record.new_rank,
                    alpha: one.alpha,
                })
            });
            settings.collect()
        };
        for part in PARTS {
            let settings = of(&|holder| match holder {
                Holder::Metadata { part: own, module } if own == part => Some(module.clone()),
                _ => None,
            });
            if let (false, Some(metadata)) = (settings.is_empty(), &mut metadata) {
                set_ranks(metadata, &format!("{part}."), &settings, others);
            }
        }
        let first = made.first().map(|one| one.record.new_rank);
        let is_uneven = made.iter().any(|one| Some(one.record.new_rank) != first);
        let is_custom = made.iter().all(|one| one.holder == Holder::Custom);
        if self.format == Format::Diffusers && is_custom && is_uneven && metadata.is_none() {
            if others {
                notes.push(
                    "the ranks differ, which diffusers reads as different scales, and not all \
                     modules could be stated in its metadata"
                        .to_owned(),
                );
            } else {
                metadata = Some(new_metadata(made));
                notes.push(
                    "the ranks differ: they are stated in the file's metadata, which diffusers \
                     reads from 0.34 on"
                        .to_owned(),
                );
            }
        }
        if let Some(metadata) = metadata {
            let text = Value::Object(metadata).to_string();
            texts.insert(METADATA.to_owned(), Value::String(text));
        }
        if let Some(configuration) = configuration {
            let mut settings: Vec<Setting> = Vec::new();
            let mut places: BTreeMap<&str, usize> = BTreeMap::new();
            for one in made
                .iter()
                .filter(|one| one.holder == Holder::Configuration)
            {
                let own = Setting {
                    name: one.configured.clone(),
                    rank: one.record.new_rank,
                    alpha: one.alpha,
                };
                let place = *places.entry(&one.configured).or_insert(settings.len());
                match settings.get(place) {
                    None => settings.push(own),
                    Some(first) if *first == own => {}
                    Some(first) => {
                        return Err(Error::format(
                            configuration.path(),
                            format!(
                                "rank and alpha of {}, which PEFT gives to all its parts",
                                own.name
                            ),
                            format!("{} and {}", first.rank, first.alpha),
                            format!("{} and {} for {}", own.rank, own.alpha, one.record.name),
                        ));
                    }
                }
            }
            if !settings.is_empty() {
                set_ranks(&mut configuration.fields, "", &settings, others);
            }
            if made.iter().any(|one| one.holder == Holder::Mlx) {
                if scale == NewScale::Fold && others {
                    return Err(Error::format(
                        configuration.path(),
                        "scale of all modules",
                        "an adapter that can be resized as a whole, to fold it into the factors",
                        "modules that stay as they are",
                    ));
                }
                let mut ranks: Vec<usize> = made.iter().map(|m| m.record.new_rank).collect();
                ranks.sort_unstable();
                if let Some(fields) = configuration.mlx() {
                    // Its loader takes the factors as they are; new training would take this.
                    fields.insert("rank".to_owned(), json!(ranks.last()));
                    if scale == NewScale::Fold {
                        fields.insert("scale".to_owned(), json!(1.0));
                    }
                }
            }
        }
        if made.iter().any(|one| one.holder == Holder::Unknown) {
            notes.push(
                "the scale is not in the file: B A was resized, and is to be multiplied with the old \
                 scale, not with the old alpha by the new rank"
                    .to_owned(),
            );
        }
        Ok(notes)
    }
}

/// Settings for every part of the pipeline, as diffusers takes them.
fn new_metadata(made: &[Made]) -> Map<String, Value> {
    let mut metadata = Map::new();
    for part in PARTS {
        let prefix = format!("{part}.");
        let own = made.iter().filter_map(|one| {
            let name = match one.raw.strip_prefix(&prefix) {
                Some(name) => name,
                // Names without a part are the denoiser's.
                None if part == "unet" && !PARTS.iter().any(|p| is_of(&one.raw, p)) => &one.raw,
                None => return None,
            };
            Some(Setting {
                name: name.to_owned(),
                rank: one.record.new_rank,
                alpha: one.alpha,
            })
        });
        let settings: Vec<Setting> = own.collect();
        if settings.is_empty() {
            continue;
        }
        set_ranks(&mut metadata, &prefix, &settings, false);
        let names: Vec<&str> = settings.iter().map(|s| s.name.as_str()).collect();
        metadata.insert(format!("{prefix}target_modules"), json!(names));
    }
    metadata
}

fn is_of(raw: &str, part: &str) -> bool {
    raw.strip_prefix(part)
        .is_some_and(|rest| rest.starts_with('.'))
}

/// The bytes of α in a type, and the number that they are.
fn rounded(alpha: f64, dtype: Dtype) -> Result<(Vec<u8>, f64), Error> {
    let bytes = encode(std::iter::once(alpha), dtype).unwrap_or_default();
    match decode(&bytes, dtype).as_deref() {
        Some(&[number]) if number.is_finite() => Ok((bytes, number)),
        _ => Err(Error::Mismatch {
            what: "alpha",
            expected: format!("a number that {dtype:?} can hold"),
            found: alpha.to_string(),
        }),
    }
}
