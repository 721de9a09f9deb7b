use ndarray::Array2;
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::StandardNormal;
use rankwise_data::stream;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Transformer, TransformerPair};
use crate::sample::frobenius;
use crate::{Error, Stop};

/// Random pairs of transformers, each at every rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransformerGrid {
    /// Values of D.
    pub widths: Vec<usize>,
    /// H.
    pub heads: usize,
    /// Values of L.
    pub blocks: Vec<usize>,
    /// A random pair each.
    pub seeds: Vec<u64>,
    /// N, the tokens of one input.
    pub tokens: usize,
    /// Inputs of standard normal entries to measure the error on.
    pub samples: usize,
}

impl Default for TransformerGrid {
    fn default() -> Self {
        Self {
            widths: vec![8, 16],
            heads: 2,
            blocks: vec![1, 2, 3],
            seeds: (0..5).collect(),
            tokens: 8,
            samples: 100,
        }
    }
}

impl TransformerGrid {
    /// How many records the grid gives: ranks from 0 to D of every pair.
    pub fn records(&self) -> usize {
        let ranks: usize = self.widths.iter().map(|width| width + 1).sum();
        ranks * self.blocks.len() * self.seeds.len()
    }
}

/// One pair at one rank, flat for tables.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TransformerRecord {
    /// D.
    pub width: usize,
    /// H.
    pub heads: usize,
    /// L.
    pub blocks: usize,
    /// The draw.
    pub seed: u64,
    /// R of every adapter.
    pub rank: usize,
    /// ⌈G/2⌉: exact from here on.
    pub threshold: usize,
    /// E‖f(Z) − f̄(Z)‖_F over the inputs.
    pub error: Option<f64>,
    /// The same over E‖f̄(Z)‖_F.
    pub relative_error: Option<f64>,
    /// The largest relative defect of a product.
    pub defect: Option<f64>,
    /// Whether the rank reaches the threshold.
    pub exact: bool,
    /// How the measurement ended.
    pub stop: Stop,
}

/// The error of the construction at every rank from 0 to D for every pair of the grid: pairs in
/// parallel, records by width, blocks, seed and rank, the same bits at any number of threads.
/// `progress` is told how many records a finished pair gave.
///
/// # Errors
/// As [`TransformerPair::new`] and [`TransformerPair::adapt`], except for singular factors, which
/// are recorded.
pub fn transformer_curve(
    grid: &TransformerGrid,
    progress: impl Fn(usize) + Sync,
) -> Result<Vec<TransformerRecord>, Error> {
    let mut pairs = Vec::new();
    for &width in &grid.widths {
        for &blocks in &grid.blocks {
            pairs.extend(grid.seeds.iter().map(|&seed| (width, blocks, seed)));
        }
    }
    let curve = |&(width, blocks, seed): &(usize, usize, u64)| {
        let records = one(grid, width, blocks, seed)?;
        progress(records.len());
        Ok(records)
    };
    let curves: Vec<Result<Vec<_>, Error>> = pairs.par_iter().map(curve).collect();
    let curves: Vec<Vec<_>> = curves.into_iter().collect::<Result<_, _>>()?;
    Ok(curves.into_iter().flatten().collect())
}

fn one(
    grid: &TransformerGrid,
    width: usize,
    blocks: usize,
    seed: u64,
) -> Result<Vec<TransformerRecord>, Error> {
    let place = format!("verify/transformer/{width}/{}/{blocks}", grid.heads);
    let mut rng = stream(seed, &place, 0);
    let target = Transformer::random(width, grid.heads, blocks, &mut rng)?;
    let frozen = Transformer::random(width, grid.heads, blocks, &mut rng)?;
    let mut inputs = stream(seed, &format!("{place}/inputs"), 0);
    let shape = (width, grid.tokens);
    let inputs: Vec<Array2<f64>> = (0..grid.samples)
        .map(|_| Array2::random_using(shape, StandardNormal, &mut inputs))
        .collect();
    let pair = TransformerPair::new(target, frozen)?;
    let wanted = inputs
        .iter()
        .map(|z| pair.target().forward(z.view()))
        .collect::<Result<Vec<_>, _>>()?;
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / inputs.len() as f64;
    let scale = mean(&mut wanted.iter().map(|out| frobenius(out.view())));
    let threshold = pair.threshold();
    let measure = |rank: usize| {
        let mut record = TransformerRecord {
            width,
            heads: grid.heads,
            blocks,
            seed,
            rank,
            threshold,
            error: None,
            relative_error: None,
            defect: None,
            exact: rank >= threshold,
            stop: Stop::Singular,
        };
        let adaptation = match pair.adapt(rank) {
            Ok(adaptation) => adaptation,
            Err(Error::Singular { .. }) => return Ok(record),
            Err(error) => return Err(error),
        };
        let mut gaps = Vec::with_capacity(inputs.len());
        for (z, wanted) in inputs.iter().zip(&wanted) {
            let gap = adaptation.adapted.forward(z.view())? - wanted;
            gaps.push(frobenius(gap.view()));
        }
        let error = mean(&mut gaps.into_iter());
        record.error = Some(error);
        record.relative_error = Some(error / scale);
        record.defect = Some(adaptation.defect);
        record.stop = Stop::Measured;
        Ok(record)
    };
    (0..=width).map(measure).collect()
}
