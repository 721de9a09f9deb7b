use serde::Serialize;

use super::subspace::ChanceSimilarity;
use super::weight::{AgainstWeight, IntruderRule};
use crate::{Measures, Refused};

/// What comparing adapters finds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The rank at which similarity is summarised; smaller where an update has fewer directions.
    pub rank: usize,
    /// What counted as an intruder dimension.
    pub intruder_rule: IntruderRule,
    /// In the order given, and in natural order where one path has several.
    pub adapters: Vec<ComparedAdapter>,
    /// Every update of every module that is compared.
    pub updates: Vec<UpdateRecord>,
    /// Every module of every pair of adapters that both have.
    pub pairs: Vec<PairRecord>,
    /// Modules without a comparison.
    pub apart: Vec<Apart>,
    /// Files that are no adapters, and parts of adapters without an update.
    pub refused: Vec<Refused>,
    /// What concerns the adapters as a whole.
    pub notes: Vec<String>,
}

/// One adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComparedAdapter {
    /// Its folder or file.
    pub path: String,
    /// The layout of its file.
    pub format: String,
    /// The base model that its configuration names.
    pub base_model: Option<String>,
    /// The modules that it changes.
    pub modules: usize,
    /// The step of a checkpoint, by its name; only where checkpoints of one run are compared.
    pub step: Option<u64>,
}

/// One module's update in one adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UpdateRecord {
    /// Place of the adapter in [`Comparison::adapters`].
    pub adapter: usize,
    /// The module.
    pub module: String,
    /// The first number in its name.
    pub layer: Option<usize>,
    /// Its name without numbers.
    pub role: String,
    /// Rows and columns as the base model keeps the weight.
    pub shape: [usize; 2],
    /// Every measure of its rank.
    pub measures: Measures,
    /// The update beside the base weight, where a base model was given and has that weight.
    pub against_weight: Option<AgainstWeight>,
}

/// One module in two adapters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairRecord {
    /// Place of the first adapter in [`Comparison::adapters`].
    pub first: usize,
    /// Place of the second.
    pub second: usize,
    /// The module.
    pub module: String,
    /// The first number in its name.
    pub layer: Option<usize>,
    /// Its name without numbers.
    pub role: String,
    /// Rows and columns as the base model keeps the weight.
    pub shape: [usize; 2],
    /// Numerical ranks of both updates.
    pub ranks: [usize; 2],
    /// ⟨ΔW₁, ΔW₂⟩ / (‖ΔW₁‖‖ΔW₂‖); `None` if one is zero.
    pub cosine: Option<f64>,
    /// 1/√(mn): the standard deviation of the cosine of updates with random singular vectors, whose
    /// mean is zero.
    pub cosine_deviation: f64,
    /// ‖ΔW₁ − ΔW₂‖_F / √(‖ΔW₁‖² + ‖ΔW₂‖²): 0 equal, 1 orthogonal, √2 opposite.
    pub distance: Option<f64>,
    /// ‖ΔW₂‖_F / ‖ΔW₁‖_F.
    pub norm_ratio: Option<f64>,
    /// The outputs' side; `None` if one update is zero.
    pub left: Option<SideRecord>,
    /// The inputs' side.
    pub right: Option<SideRecord>,
}

/// The singular subspaces of two updates on one side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SideRecord {
    /// d: the space that they are in.
    pub dimension: usize,
    /// φ of the first directions, i = j = 1.
    pub top: Similarity,
    /// φ at i = j = the rank asked for, or the smaller numerical rank.
    pub chosen: Similarity,
    /// φ at i = j = half the smaller numerical rank, rounded up.
    pub half: Similarity,
    /// φ of all directions: i and j are the numerical ranks.
    pub all: Similarity,
    /// φ at the ranks that hold 99 % of each update's energy.
    pub energy_99: Similarity,
    /// Mean principal angle between the subspaces of all directions, in radians.
    pub mean_angle: f64,
    /// The principal angles in radians, ascending; only where two adapters are compared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub angles: Vec<f64>,
    /// The same in degrees.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub angles_degrees: Vec<f64>,
    /// φ(i, j); only where two adapters are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<Grid>,
}

/// φ(i, j) at one place, and what chance gives there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Similarity {
    /// Directions of the first update.
    pub i: usize,
    /// Directions of the second.
    pub j: usize,
    /// φ(i, j).
    pub phi: f64,
    /// Mean and deviation for random subspaces.
    pub chance: ChanceSimilarity,
}

/// φ(i, j) over a grid.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Grid {
    /// The values of i.
    pub first: Vec<usize>,
    /// The values of j.
    pub second: Vec<usize>,
    /// A row for every i, a column for every j.
    pub phi: Vec<Vec<f64>>,
}

/// A module that is not compared, or not in every adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Apart {
    /// The module.
    pub module: String,
    /// Places of the adapters that this is about.
    pub adapters: Vec<usize>,
    /// What was expected and what was found.
    pub reason: String,
}

/// What a matrix of adapters can hold: means over the modules that two share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Likeness {
    /// φ of the left subspaces at [`Comparison::rank`].
    PhiLeft,
    /// φ of the right subspaces.
    PhiRight,
    /// The cosine of the updates.
    Cosine,
    /// The mean principal angle of the left subspaces, in degrees.
    AngleLeft,
    /// That of the right ones.
    AngleRight,
}

impl Likeness {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::PhiLeft,
        Self::PhiRight,
        Self::Cosine,
        Self::AngleLeft,
        Self::AngleRight,
    ];

    /// Of one module, if neither update is zero.
    pub fn of(self, pair: &PairRecord) -> Option<f64> {
        let side =
            |side: &Option<SideRecord>, value: fn(&SideRecord) -> f64| side.as_ref().map(value);
        match self {
            Self::PhiLeft => side(&pair.left, |s| s.chosen.phi),
            Self::PhiRight => side(&pair.right, |s| s.chosen.phi),
            Self::Cosine => pair.cosine,
            Self::AngleLeft => side(&pair.left, |s| s.mean_angle.to_degrees()),
            Self::AngleRight => side(&pair.right, |s| s.mean_angle.to_degrees()),
        }
    }

    /// Of an adapter and itself.
    fn of_the_same(self) -> f64 {
        match self {
            Self::PhiLeft | Self::PhiRight | Self::Cosine => 1.0,
            Self::AngleLeft | Self::AngleRight => 0.0,
        }
    }
}

impl Comparison {
    /// The mean of a likeness over the modules that two adapters share, for every two adapters: N × N,
    /// symmetric; `None` where they share none or were not compared.
    pub fn matrix(&self, likeness: Likeness) -> Vec<Vec<Option<f64>>> {
        let count = self.adapters.len();
        let mut sums = vec![vec![(0.0, 0_usize); count]; count];
        for pair in &self.pairs {
            if let Some(value) = likeness.of(pair) {
                for (i, j) in [(pair.first, pair.second), (pair.second, pair.first)] {
                    sums[i][j].0 += value;
                    sums[i][j].1 += 1;
                }
            }
        }
        let mean = |(sum, count): (f64, usize)| (count > 0).then(|| sum / count as f64);
        let mut matrix: Vec<Vec<Option<f64>>> = sums
            .into_iter()
            .map(|row| row.into_iter().map(mean).collect())
            .collect();
        for (i, row) in matrix.iter_mut().enumerate() {
            row[i] = Some(likeness.of_the_same());
        }
        matrix
    }

    /// How many modules two adapters share and have been compared in.
    pub fn shared(&self, first: usize, second: usize) -> usize {
        let is = |pair: &&PairRecord| {
            (pair.first, pair.second) == (first, second)
                || (pair.first, pair.second) == (second, first)
        };
        self.pairs.iter().filter(is).count()
    }
}
