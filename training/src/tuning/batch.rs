//! Batches: examples one below the other, in parts of a fixed size.
//!
//! A batch is computed in parts of about [`PART`] tokens whose gradients are added in order: parts
//! fit the processor's caches, need little memory at a time, and can be shared out to threads
//! without changing a bit.

use candle_core::{DType, Device, Result, Tensor};

use crate::engine::Lengths;
use crate::engine::loss::Targets;
use crate::model::Inputs;

/// Tokens in a part, as far as whole examples allow.
const PART: usize = 512;

/// What an example's output should have been.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// A class.
    Class(u32),
    /// A number.
    Value(f32),
    /// First and last token of an answer.
    Span(u32, u32),
    /// Every token is followed by the next one.
    NextToken,
}

/// One example.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    /// Token ids; empty for an image.
    pub ids: Vec<u32>,
    /// Token types, as many as ids, or none.
    pub types: Vec<u32>,
    /// Channels × height × width, normalised; empty for a text.
    pub pixels: Vec<f32>,
    /// Channels, height, width.
    pub shape: [usize; 3],
    pub target: Target,
}

impl Item {
    /// A text.
    pub fn text(ids: Vec<u32>, types: Vec<u32>, target: Target) -> Self {
        Self {
            ids,
            types,
            pixels: Vec::new(),
            shape: [0; 3],
            target,
        }
    }

    /// Rows that it takes in a batch; of an image about as many as its patches.
    fn tokens(&self) -> usize {
        const PATCH: usize = 16 * 16;
        match self.ids.len() {
            0 => (self.shape[1] * self.shape[2]).div_ceil(PATCH),
            length => length,
        }
    }
}

/// Examples that are computed together, and what they should have given.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub inputs: Inputs,
    pub targets: Targets,
}

/// The parts of one step's examples.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub parts: Vec<Part>,
    /// Items that the loss averages over.
    pub items: usize,
}

impl Batch {
    /// Packs `items`; `whole` makes one part of them (for a GPU).
    pub fn new(items: &[Item], whole: bool, dtype: DType, device: &Device) -> Result<Self> {
        let mut parts = Vec::new();
        let mut start = 0;
        while start < items.len() {
            let mut end = start;
            let mut tokens = 0;
            while end < items.len() && (whole || end == start || tokens < PART) {
                tokens += items[end].tokens();
                end += 1;
            }
            parts.push(Part::new(&items[start..end], dtype, device)?);
            start = end;
        }
        Ok(Self::of(parts))
    }

    /// Every one of `groups` as a part.
    pub fn of_parts<'a>(
        groups: impl Iterator<Item = &'a [Item]>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let parts = groups.map(|items| Part::new(items, dtype, device));
        Ok(Self::of(parts.collect::<Result<_>>()?))
    }

    fn of(parts: Vec<Part>) -> Self {
        let items = parts.iter().map(|part| part.targets.count()).sum();
        Self { parts, items }
    }
}

impl Part {
    fn new(items: &[Item], dtype: DType, device: &Device) -> Result<Self> {
        let ids: Vec<u32> = items
            .iter()
            .flat_map(|item| item.ids.iter().copied())
            .collect();
        let is_image = ids.is_empty();
        let lengths = items
            .iter()
            .map(|item| if is_image { 1 } else { item.ids.len() });
        let pixels = match items.first() {
            Some(first) if is_image => {
                let [channels, height, width] = first.shape;
                let all: Vec<f32> = items.iter().flat_map(|item| item.pixels.clone()).collect();
                let shape = (items.len(), channels, height, width);
                Some(Tensor::from_vec(all, shape, device)?.to_dtype(dtype)?)
            }
            _ => None,
        };
        let class = |item: &Item| match item.target {
            Target::Class(class) => class,
            _ => 0,
        };
        let targets = match items.first().map(|item| item.target) {
            None | Some(Target::Class(_)) => Targets::Classes(items.iter().map(class).collect()),
            Some(Target::Value(_)) => Targets::Values(
                items
                    .iter()
                    .map(|item| match item.target {
                        Target::Value(value) => value,
                        _ => f32::NAN,
                    })
                    .collect(),
            ),
            Some(Target::Span(..)) => Targets::Spans(
                items
                    .iter()
                    .map(|item| match item.target {
                        Target::Span(first, last) => (first, last),
                        _ => (0, 0),
                    })
                    .collect(),
            ),
            Some(Target::NextToken) => Targets::Tokens(
                items
                    .iter()
                    .flat_map(|item| {
                        let next = item.ids.iter().skip(1).copied().map(Some);
                        next.chain(std::iter::once(None))
                    })
                    .collect(),
            ),
        };
        Ok(Self {
            inputs: Inputs {
                types: items
                    .iter()
                    .flat_map(|item| item.types.iter().copied())
                    .collect(),
                lengths: Lengths::new(lengths),
                ids,
                pixels,
            },
            targets,
        })
    }
}
