use rankwise_data::stream;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{CellRecord, Error, Family, Lift, Partition, Problem, Sample, SecondMoment, Strategy};

/// The most numbers that one network or sample of a cell may hold: 1 GiB. A mistyped size is told
/// rather than allocated.
const MAX_NUMBERS: usize = 1 << 27;

/// A grid of random problems: every shape with every family and seed, at every uniform rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grid {
    /// Values of D.
    pub widths: Vec<usize>,
    /// Pairs of target and frozen depth (L̄, L), partitioned uniformly.
    pub depths: Vec<(usize, usize)>,
    /// The families of random networks.
    pub families: Vec<Family>,
    /// A random draw each.
    pub seeds: Vec<u64>,
    /// R, the same in every layer; all of 0..=D if absent.
    pub ranks: Option<Vec<usize>>,
    /// Expected norms of the target's biases; zero for none.
    pub bias_scales: Vec<f64>,
    /// Standard normal inputs in a sample.
    pub samples: usize,
    /// From what the adapted biases are chosen.
    pub lift: Lift,
    /// How the adapters are constructed.
    pub strategy: Strategy,
}

impl Default for Grid {
    fn default() -> Self {
        Self {
            widths: vec![16],
            depths: vec![(1, 2), (2, 4)],
            families: vec![Family::Gaussian],
            seeds: (0..5).collect(),
            ranks: None,
            bias_scales: vec![1.0],
            samples: 1000,
            lift: Lift::default(),
            strategy: Strategy::default(),
        }
    }
}

impl Grid {
    /// The grid of the whole theorem: four widths, L̄ and |P_i| from one to three, every family,
    /// with and without biases, at every rank.
    pub fn full() -> Self {
        Self {
            widths: vec![8, 16, 32, 64],
            depths: (1..=3)
                .flat_map(|target| (1..=3).map(move |block| (target, target * block)))
                .collect(),
            families: vec![
                Family::Gaussian,
                Family::Orthogonal,
                Family::NearIdentity { noise: 0.5 },
                Family::LowRank { rank: 4 },
                Family::IllConditioned { condition: 1e3 },
                Family::RankDeficient { rank: 4 },
            ],
            seeds: vec![0],
            bias_scales: vec![0.0, 1.0],
            samples: 200,
            ..Self::default()
        }
    }

    /// How many records the grid gives.
    pub fn records(&self) -> usize {
        let ranks = |width: &usize| {
            self.ranks
                .as_ref()
                .map_or(width.saturating_add(1), Vec::len)
        };
        let cells =
            self.depths.len() * self.families.len() * self.bias_scales.len() * self.seeds.len();
        let of_widths = self.widths.iter().map(ranks);
        of_widths
            .fold(0, usize::saturating_add)
            .saturating_mul(cells)
    }

    /// The cells in the order of the records: by width, depths, family, bias scale and seed.
    pub fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &width in &self.widths {
            for &(target_layers, frozen_layers) in &self.depths {
                for &family in &self.families {
                    for &bias_scale in &self.bias_scales {
                        cells.extend(self.seeds.iter().map(|&seed| Cell {
                            width,
                            target_layers,
                            frozen_layers,
                            family,
                            bias_scale,
                            samples: self.samples,
                            lift: self.lift,
                            strategy: self.strategy,
                            seed,
                        }));
                    }
                }
            }
        }
        cells
    }
}

/// One random problem with its sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    /// D.
    pub width: usize,
    /// L̄.
    pub target_layers: usize,
    /// L.
    pub frozen_layers: usize,
    /// How target and frozen network are drawn.
    pub family: Family,
    /// The expected norm of the target's biases.
    pub bias_scale: f64,
    /// Standard normal inputs in the sample.
    pub samples: usize,
    /// From what the adapted biases are chosen.
    pub lift: Lift,
    /// How the adapters are constructed.
    pub strategy: Strategy,
    /// The seed of the networks' stream and of the sample's.
    pub seed: u64,
}

impl Cell {
    /// Draws the networks and the sample; the same cell gives the same bits.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the cell's numbers describe no networks or no sample,
    /// [`Error::Linalg`] if a decomposition fails.
    pub fn draw(&self) -> Result<Trial, Error> {
        let Self {
            width,
            target_layers,
            frozen_layers,
            family,
            seed,
            ..
        } = *self;
        let numbers = |rows: usize, times: usize| {
            let numbers = rows.checked_mul(width)?.checked_mul(times)?;
            (numbers <= MAX_NUMBERS).then_some(numbers)
        };
        if numbers(width, frozen_layers).is_none() || numbers(self.samples, 1).is_none() {
            return Err(Error::invalid(
                "size of a cell",
                format!("at most {MAX_NUMBERS} numbers in a network or sample"),
                format!(
                    "{frozen_layers} layers of width {width} and {} samples",
                    self.samples
                ),
            ));
        }
        let partition = Partition::uniform(frozen_layers, target_layers)?;
        let place = format!("{family}/{width}/{target_layers}/{frozen_layers}");
        let mut networks = stream(seed, &format!("verify/networks/{place}"), 0);
        let mut inputs = stream(seed, &format!("verify/inputs/{place}"), 0);
        let sample = Sample::gaussian(self.samples, width, &mut inputs)?;
        Ok(Trial {
            cell: *self,
            problem: family.draw(width, partition, self.bias_scale, &mut networks)?,
            sigma: sample.second_moment()?,
            sample,
        })
    }
}

/// A cell's networks and sample, drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    cell: Cell,
    problem: Problem,
    sample: Sample,
    sigma: SecondMoment,
}

impl Trial {
    /// The networks.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The inputs.
    pub fn sample(&self) -> &Sample {
        &self.sample
    }

    /// The record for rank R in every layer.
    ///
    /// # Errors
    /// [`Error::Invalid`] if R is beyond D; otherwise as [`Problem::verify`].
    pub fn verify(&self, rank: usize) -> Result<CellRecord, Error> {
        if rank > self.cell.width {
            let expected = format!("at most the width, {}", self.cell.width);
            return Err(Error::invalid("rank", expected, rank));
        }
        let ranks = vec![rank; self.cell.frozen_layers];
        let (lift, strategy) = (self.cell.lift, self.cell.strategy);
        let (sample, sigma) = (&self.sample, &self.sigma);
        let result = self.problem.verify(&ranks, sample, sigma, lift, strategy)?;
        Ok(CellRecord::new(&self.cell, rank, result))
    }
}

/// Draws a cell and verifies it at one rank; [`Cell::draw`] once for many ranks.
///
/// # Errors
/// As [`Cell::draw`] and [`Trial::verify`].
pub fn verify_cell(cell: &Cell, rank: usize) -> Result<CellRecord, Error> {
    cell.draw()?.verify(rank)
}

/// Verifies a grid, cells in parallel; records come by width, depths, family, bias
/// scale, seed and rank, and are the
/// same bits at any number of threads. `progress` is told how many records a finished cell gave.
///
/// # Errors
/// The first cell's error in that order, as [`verify_cell`].
pub fn verify_grid(grid: &Grid, progress: impl Fn(usize) + Sync) -> Result<Vec<CellRecord>, Error> {
    let verify = |cell: &Cell| -> Result<Vec<CellRecord>, Error> {
        let trial = cell.draw()?;
        let records: Vec<_> = match &grid.ranks {
            Some(ranks) => ranks
                .iter()
                .map(|&rank| trial.verify(rank))
                .collect::<Result<_, _>>(),
            None => (0..=cell.width).map(|rank| trial.verify(rank)).collect(),
        }?;
        progress(records.len());
        Ok(records)
    };
    // Collected before the first error is looked for, so that which one it is does not depend on
    // the order in which cells finish.
    let cells: Vec<_> = grid.cells().par_iter().map(verify).collect();
    let records: Vec<Vec<CellRecord>> = cells.into_iter().collect::<Result<_, _>>()?;
    Ok(records.into_iter().flatten().collect())
}
