//! The tensors of a file, sorted by module, part and layout.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::config::AdapterConfig;
use super::key::{Format, Key, Part};
use super::module::Parts;

/// The empty tensor by which a Control-LoRA makes itself known; its factors are called `.up` and
/// `.down`.
pub(super) const CONTROL_LORA: &str = "lora_controlnet";

/// The names of a file by what they mean.
pub(super) struct Sorted<'a> {
    /// By module and adapter.
    pub groups: BTreeMap<(Cow<'a, str>, Option<&'a str>), Parts<'a>>,
    /// Tensors whose part of a module another one has: that one's name.
    pub doubles: Vec<(&'a str, &'a str)>,
    /// By family: how many, and one of them.
    pub foreign: BTreeMap<&'static str, (usize, &'a str)>,
    pub full: Vec<&'a str>,
    pub format: Format,
}

impl<'a> Sorted<'a> {
    pub fn new(names: &'a [String], config: Option<&AdapterConfig>) -> Self {
        let mut sorted = Self {
            groups: BTreeMap::new(),
            doubles: Vec::new(),
            foreign: BTreeMap::new(),
            full: Vec::new(),
            format: Format::Peft,
        };
        let mut formats = BTreeSet::new();
        for name in names {
            match in_company(name, names) {
                Key::Part {
                    module,
                    adapter,
                    part,
                    format,
                } => {
                    let is_pipeline = ["unet.", "transformer.", "text_encoder"]
                        .iter()
                        .any(|begin| name.starts_with(begin));
                    formats.insert(match format {
                        Format::Peft if is_pipeline && config.is_none() => Format::Diffusers,
                        format => format,
                    });
                    let parts = sorted.groups.entry((module, adapter)).or_default();
                    match parts.entry(part) {
                        Entry::Vacant(place) => {
                            place.insert(name);
                        }
                        Entry::Occupied(_) if part == Part::Harmless => {}
                        Entry::Occupied(first) => sorted.doubles.push((name, first.get())),
                    }
                }
                Key::Foreign(family) => {
                    sorted.foreign.entry(family).or_insert((0, name)).0 += 1;
                }
                Key::Full => sorted.full.push(name),
            }
        }
        sorted.format = format_of(&formats, config);
        sorted
    }
}

/// A name's meaning, where it depends on what other tensors there are (`names` is sorted).
fn in_company<'a>(name: &'a str, names: &[String]) -> Key<'a> {
    let key = Key::parse(name);
    if !matches!(key, Key::Full | Key::Foreign(_)) {
        return key;
    }
    let has = |name: &str| {
        names
            .binary_search_by(|other| other.as_str().cmp(name))
            .is_ok()
    };
    let part = |module: &'a str, part, format| Key::Part {
        module: Cow::Borrowed(module),
        adapter: None,
        part,
        format,
    };
    match name.rsplit_once('.') {
        Some((module, "m")) if has(&format!("{module}.lora_a")) => {
            part(module, Part::Magnitude, Format::Mlx)
        }
        Some((module, "magnitude")) if has(&format!("{module}.lora_a.weight")) => {
            part(module, Part::Magnitude, Format::Torchtune)
        }
        Some((module, "weight")) if has(&format!("{module}.on_input")) => {
            part(module, Part::Multiplier, Format::Lycoris)
        }
        Some((module, "down")) if has(CONTROL_LORA) => part(module, Part::Down, Format::Diffusers),
        Some((module, "up")) if has(CONTROL_LORA) => part(module, Part::Up, Format::Diffusers),
        _ => key,
    }
}

/// The layout of a file by those of its names: the most particular one.
fn format_of(formats: &BTreeSet<Format>, config: Option<&AdapterConfig>) -> Format {
    if config.is_some_and(|c| c.peft_type.is_some()) {
        return Format::Peft;
    }
    let order = [
        Format::Mlx,
        Format::Cloneofsimo,
        Format::Lycoris,
        Format::Diffusers,
        Format::Kohya,
        Format::Loralib,
        Format::Torchtune,
    ];
    order
        .into_iter()
        .find(|format| formats.contains(format))
        .unwrap_or(Format::Peft)
}
