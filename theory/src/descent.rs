//! Adapters found by gradient descent, beside the constructed ones.
//!
//! The construction's error is an upper bound on what adapters of a rank can do, and no bound on
//! what training finds. On the same networks this trains ΔW_l = B_l A_l and the biases by Adam on
//! the mean of ‖f(x) − f̄(x)‖² over fresh Gaussian batches, and measures both on one held-out sample.
//!
//! | symbol | identifier |
//! |---|---|
//! | B_l, A_l, b̂_l | `Layer` |
//! | mean of ‖f(x) − f̄(x)‖² | `loss` |
//! | trained over constructed | [`DescentRecord::gap`] |
//!
//! B starts at zero and A at N(0, 1/D), as in LoRA; [`Start::Construction`] starts at the
//! constructed adapters instead and asks how much descent still gains. Adam is Kingma & Ba 2015
//! with its own defaults, its rate falling to zero along a half cosine.
//!
//! Source: Zeng & Lee 2024, section 5, whose own code sees only two distinct batches.

use ndarray::{Array1, Array2, Axis};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::StandardNormal;
use rankwise_data::stream;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Domain, Error, Family, Fnn, Partition, Problem, Sample};

/// Where descent starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// At the frozen network, A drawn with this number.
    Random(u64),
    /// At the constructed adapters and biases.
    Construction,
}

/// Random problems at some ranks, each trained from several starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DescentGrid {
    /// D.
    pub width: usize,
    /// Pairs of target and frozen depth (L̄, L).
    pub depths: Vec<(usize, usize)>,
    /// How target and frozen network are drawn.
    pub family: Family,
    /// A random problem each.
    pub seeds: Vec<u64>,
    /// R of every layer.
    pub ranks: Vec<usize>,
    /// Random starts for each; the constructed start is always tried too.
    pub starts: u64,
    /// Adam's steps.
    pub steps: usize,
    /// Inputs in a batch, drawn anew for every step.
    pub batch: usize,
    /// Adam's first rate.
    pub learning_rate: f64,
    /// Held-out inputs.
    pub samples: usize,
}

impl Default for DescentGrid {
    fn default() -> Self {
        Self {
            width: 16,
            depths: vec![(1, 2), (2, 4)],
            family: Family::Gaussian,
            seeds: vec![0, 1],
            ranks: vec![0, 1, 2, 4, 6, 8, 12, 16],
            starts: 3,
            steps: 8000,
            batch: 128,
            learning_rate: 1e-2,
            samples: 2000,
        }
    }
}

impl DescentGrid {
    /// How many records the grid gives.
    pub fn records(&self) -> usize {
        let starts = usize::try_from(self.starts).unwrap_or(usize::MAX);
        let problems = self.depths.len() * self.seeds.len() * self.ranks.len();
        problems.saturating_mul(starts.saturating_add(1))
    }
}

/// One training, flat for tables.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DescentRecord {
    /// D.
    pub width: usize,
    /// L̄.
    pub target_layers: usize,
    /// L.
    pub frozen_layers: usize,
    /// How the networks were drawn.
    pub family: Family,
    /// The draw.
    pub seed: u64,
    /// R of every layer.
    pub rank: usize,
    /// Where descent started.
    pub start: Start,
    /// Adam's steps.
    pub steps: usize,
    /// The mean of ‖f(x) − f̄(x)‖² on the held-out inputs after training.
    pub trained_mse: f64,
    /// The same for the constructed adapters.
    pub constructed_mse: f64,
    /// `trained_mse` over `constructed_mse`: below one, descent found better adapters.
    pub gap: f64,
}

/// Trains every start of every problem at every rank: in parallel, each on one thread, records by
/// depths, seed, rank and start, the same bits at any number of threads. `progress` is called after
/// each.
///
/// # Errors
/// [`Error::Invalid`] if the grid describes no networks, or training diverges; otherwise as
/// [`Problem::construct`].
pub fn descent_grid(
    grid: &DescentGrid,
    progress: impl Fn() + Sync,
) -> Result<Vec<DescentRecord>, Error> {
    let mut jobs = Vec::with_capacity(grid.records());
    for &depths in &grid.depths {
        for &seed in &grid.seeds {
            for &rank in &grid.ranks {
                let random = (0..grid.starts).map(Start::Random);
                let starts = random.chain([Start::Construction]);
                jobs.extend(starts.map(|start| (depths, seed, rank, start)));
            }
        }
    }
    let train = |&(depths, seed, rank, start): &((usize, usize), u64, usize, Start)| {
        let record = grid.train(depths, seed, rank, start);
        progress();
        record
    };
    let records: Vec<Result<_, Error>> = jobs.par_iter().map(train).collect();
    records.into_iter().collect()
}

impl DescentGrid {
    fn train(
        &self,
        (target_layers, frozen_layers): (usize, usize),
        seed: u64,
        rank: usize,
        start: Start,
    ) -> Result<DescentRecord, Error> {
        let (width, family) = (self.width, self.family);
        if rank > width {
            return Err(Error::invalid(
                "rank",
                format!("at most the width, {width}"),
                rank,
            ));
        }
        let partition = Partition::uniform(frozen_layers, target_layers)?;
        let place = format!("verify/descent/{family}/{width}/{target_layers}/{frozen_layers}");
        let problem = family.draw(width, partition, 1.0, &mut stream(seed, &place, 0))?;
        let mut held_out = stream(seed, &format!("{place}/test"), 0);
        let test = Sample::gaussian(self.samples, width, &mut held_out)?;
        let built = problem.construct(&vec![rank; frozen_layers], Domain::Sample(&test))?;
        let mut learner = match start {
            Start::Random(number) => {
                let place = format!("{place}/start/{rank}");
                Learner::random(&problem, rank, &mut stream(seed, &place, number))
            }
            Start::Construction => Learner {
                layers: built
                    .adapters()
                    .iter()
                    .zip(built.adapted().biases())
                    .map(|(adapter, bias)| Layer {
                        b: adapter.b.clone(),
                        a: adapter.a.clone(),
                        bias: bias.clone(),
                    })
                    .collect(),
            },
        };
        let number = match start {
            Start::Random(number) => number,
            Start::Construction => self.starts,
        };
        let mut batches = stream(seed, &format!("{place}/batches/{rank}"), number);
        // From the construction, where the loss is already low, a large rate would only undo it.
        let first_rate = match start {
            Start::Random(_) => self.learning_rate,
            Start::Construction => self.learning_rate / 10.0,
        };
        let frozen = problem.frozen().weights();
        let mut adam = Adam::new(&learner);
        for step in 0..self.steps {
            let shape = (self.batch, width);
            let x = Array2::random_using(shape, StandardNormal, &mut batches);
            let wanted = problem.target().forward(x.view())?;
            let (_, gradient) = learner.loss_and_gradient(frozen, &x, &wanted);
            let progress = step as f64 / self.steps as f64;
            let rate = first_rate * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
            adam.step(&mut learner, &gradient, rate);
        }
        let trained = mean_square(&learner.network(frozen)?, problem.target(), &test)?;
        let constructed = mean_square(built.adapted(), problem.target(), &test)?;
        if !trained.is_finite() {
            return Err(Error::invalid(
                "loss after training",
                "a finite number",
                trained,
            ));
        }
        Ok(DescentRecord {
            width,
            target_layers,
            frozen_layers,
            family,
            seed,
            rank,
            start,
            steps: self.steps,
            trained_mse: trained,
            constructed_mse: constructed,
            gap: trained / constructed,
        })
    }
}

fn mean_square(net: &Fnn, target: &Fnn, sample: &Sample) -> Result<f64, Error> {
    let difference = net.forward(sample.points())? - target.forward(sample.points())?;
    Ok(sample.root_mean_square(&difference).powi(2))
}

/// What is trained of one layer: D × r, r × D, D.
#[derive(Debug, Clone)]
struct Layer {
    b: Array2<f64>,
    a: Array2<f64>,
    bias: Array1<f64>,
}

/// What is trained, or the loss's gradient in it.
#[derive(Debug, Clone)]
struct Learner {
    layers: Vec<Layer>,
}

impl Learner {
    fn random(problem: &Problem, rank: usize, rng: &mut impl rand::Rng) -> Self {
        let width = problem.target().width();
        let std = 1.0 / (width as f64).sqrt();
        let layer = |_| Layer {
            b: Array2::zeros((width, rank)),
            a: std * Array2::<f64>::random_using((rank, width), StandardNormal, rng),
            bias: Array1::zeros(width),
        };
        Self {
            layers: (0..problem.frozen().depth()).map(layer).collect(),
        }
    }

    fn weights(&self, frozen: &[Array2<f64>]) -> Vec<Array2<f64>> {
        let layers = self.layers.iter().zip(frozen);
        layers
            .map(|(layer, w)| w + &layer.b.dot(&layer.a))
            .collect()
    }

    fn network(&self, frozen: &[Array2<f64>]) -> Result<Fnn, Error> {
        let biases = self.layers.iter().map(|layer| layer.bias.clone());
        Fnn::new(self.weights(frozen), biases.collect())
    }

    /// The mean over the batch of ‖f(x) − `wanted`‖², and its gradient.
    fn loss_and_gradient(
        &self,
        frozen: &[Array2<f64>],
        x: &Array2<f64>,
        wanted: &Array2<f64>,
    ) -> (f64, Self) {
        let weights = self.weights(frozen);
        let mut activations = vec![x.clone()];
        for (w, layer) in weights.iter().zip(&self.layers) {
            let mut z = activations[activations.len() - 1].dot(&w.t());
            z += &layer.bias;
            z.mapv_inplace(|value| if value < 0.0 { 0.0 } else { value });
            activations.push(z);
        }
        let count = x.nrows() as f64;
        let difference = &activations[weights.len()] - wanted;
        let loss = difference.iter().map(|value| value * value).sum::<f64>() / count;
        let mut upstream = difference * (2.0 / count);
        let mut layers = Vec::with_capacity(weights.len());
        for (l, w) in weights.iter().enumerate().rev() {
            // A ReLU passes the gradient where its output is positive.
            ndarray::Zip::from(&mut upstream)
                .and(&activations[l + 1])
                .for_each(|gradient, &output| {
                    if output <= 0.0 {
                        *gradient = 0.0;
                    }
                });
            let own = &self.layers[l];
            let of_weight = upstream.t().dot(&activations[l]);
            layers.push(Layer {
                b: of_weight.dot(&own.a.t()),
                a: own.b.t().dot(&of_weight),
                bias: upstream.sum_axis(Axis(0)),
            });
            upstream = upstream.dot(w);
        }
        layers.reverse();
        (loss, Self { layers })
    }

    fn values(&self) -> impl Iterator<Item = &f64> {
        let layers = self.layers.iter();
        layers.flat_map(|layer| layer.b.iter().chain(&layer.a).chain(&layer.bias))
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut f64> {
        let layers = self.layers.iter_mut();
        layers.flat_map(|layer| {
            let factors = layer.b.iter_mut().chain(&mut layer.a);
            factors.chain(&mut layer.bias)
        })
    }
}

/// m and v of every trained number, in one order.
struct Adam {
    moments: Vec<(f64, f64)>,
    steps: i32,
}

impl Adam {
    const BETAS: (f64, f64) = (0.9, 0.999);
    const EPSILON: f64 = 1e-8;

    fn new(learner: &Learner) -> Self {
        Self {
            moments: vec![(0.0, 0.0); learner.values().count()],
            steps: 0,
        }
    }

    fn step(&mut self, learner: &mut Learner, gradient: &Learner, rate: f64) {
        self.steps += 1;
        let (one, two) = Self::BETAS;
        let corrections = (1.0 - one.powi(self.steps), 1.0 - two.powi(self.steps));
        let values = learner.values_mut().zip(gradient.values());
        for ((value, g), (m, v)) in values.zip(&mut self.moments) {
            *m = one * *m + (1.0 - one) * g;
            *v = two * *v + (1.0 - two) * g * g;
            *value -= rate * (*m / corrections.0) / ((*v / corrections.1).sqrt() + Self::EPSILON);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// Central differences in double precision: h² of truncation and ε/h of rounding are both near
    /// 1e-10 at h = 1e-5, and no pre-activation lies that close to a ReLU's corner.
    #[test]
    fn the_gradient_agrees_with_finite_differences() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let partition = Partition::uniform(4, 2).expect("valid");
        let problem = Family::Gaussian.draw(5, partition, 1.0, &mut rng);
        let problem = problem.expect("valid");
        let frozen = problem.frozen().weights();
        let mut learner = Learner::random(&problem, 2, &mut rng);
        for value in learner.values_mut() {
            *value += 0.3 * rand::Rng::sample::<f64, _>(&mut rng, StandardNormal);
        }
        let x = Array2::random_using((7, 5), StandardNormal, &mut rng);
        let wanted = problem.target().forward(x.view()).expect("fits");
        let (_, gradient) = learner.loss_and_gradient(frozen, &x, &wanted);
        let gradient: Vec<f64> = gradient.values().copied().collect();
        let largest = gradient.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
        assert!(largest > 0.1, "{largest}");
        for (index, expected) in gradient.iter().enumerate() {
            let mut loss_at = |shift: f64| {
                let value = learner.values_mut().nth(index).expect("in range");
                let old = *value;
                *value = old + shift;
                let loss = learner.loss_and_gradient(frozen, &x, &wanted).0;
                *learner.values_mut().nth(index).expect("in range") = old;
                loss
            };
            let step = 1e-5;
            let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
            assert!(
                (slope - expected).abs() < 1e-8 * largest,
                "{index}: {slope} {expected}"
            );
        }
    }

    /// One layer of the whole rank: descent must come near the target, as the construction does.
    #[test]
    fn descent_finds_what_the_construction_knows() {
        let grid = DescentGrid {
            width: 4,
            depths: vec![(1, 1)],
            ranks: vec![0, 4],
            seeds: vec![5],
            starts: 1,
            steps: 3000,
            samples: 200,
            ..DescentGrid::default()
        };
        let records = descent_grid(&grid, || {}).expect("finite");
        assert_eq!(records.len(), grid.records());
        let [none, _, whole, _] = &records[..] else {
            panic!("two ranks from two starts");
        };
        assert!(none.trained_mse > 0.01, "{none:?}");
        assert!(whole.trained_mse < 1e-3 * none.trained_mse, "{whole:?}");
        assert!(whole.constructed_mse < 1e-25, "{whole:?}");
        let one = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .expect("a thread");
        assert_eq!(
            one.install(|| descent_grid(&grid, || {})).expect("finite"),
            records
        );
    }
}
