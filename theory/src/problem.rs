use crate::{
    Bounds, Construction, Discrepancy, Domain, Error, Fnn, Partition, SecondMoment, Strategy,
};
use crate::{TargetNorms, network::product, oracle_singular_values};

/// A frozen network, the target that it is to be adapted to, and which of its layers stand in for
/// which target layer.
///
/// The discrepancies' spectra and the target's norms are computed once, whatever number of rank
/// budgets are then asked about. `ranks` is always R_l ≥ 0 for every frozen layer, in order.
///
/// ```
/// use ndarray::{Array2, array};
/// use rankwise_theory::{Fnn, Partition, Problem};
///
/// let target = Fnn::without_biases(vec![array![[2.0, 0.0], [0.0, 1.0]]])?;
/// let frozen = Fnn::without_biases(vec![Array2::zeros((2, 2))])?;
/// let problem = Problem::new(target, frozen, Partition::uniform(1, 1)?)?;
/// assert_eq!(problem.layer_errors(&[1])?, [1.0]);
/// assert_eq!(problem.exact_uniform_rank(), 2);
/// # Ok::<(), rankwise_theory::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    target: Fnn,
    frozen: Fnn,
    partition: Partition,
    norms: TargetNorms,
    discrepancies: Vec<Discrepancy>,
}

impl Problem {
    /// Sets the problem up: L̄ + L̄ decompositions of D × D matrices.
    ///
    /// # Errors
    /// [`Error::Invalid`] if widths differ or the partition's layers are not those of the networks,
    /// [`Error::Linalg`] if a decomposition fails.
    pub fn new(target: Fnn, frozen: Fnn, partition: Partition) -> Result<Self, Error> {
        let expect = |what: &str, expected: usize, found: usize| match expected == found {
            true => Ok(()),
            false => Err(Error::invalid(what, expected.to_string(), found)),
        };
        expect(
            "width of the frozen network",
            target.width(),
            frozen.width(),
        )?;
        expect(
            "blocks of the partition",
            target.depth(),
            partition.target_layers(),
        )?;
        expect(
            "layers of the partition",
            frozen.depth(),
            partition.frozen_layers(),
        )?;
        let norms = TargetNorms::new(&target)?;
        let mut discrepancies = Vec::with_capacity(target.depth());
        for (layers, w) in partition.blocks().iter().zip(target.weights()) {
            let p = product(&frozen.weights()[layers.clone()], target.width());
            discrepancies.push(Discrepancy::new(w.view(), p, layers.len())?);
        }
        Ok(Self {
            target,
            frozen,
            partition,
            norms,
            discrepancies,
        })
    }

    /// f̄.
    pub fn target(&self) -> &Fnn {
        &self.target
    }

    /// f₀. Its biases play no part: the construction sets its own.
    pub fn frozen(&self) -> &Fnn {
        &self.frozen
    }

    /// P.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// The norms of the target's layers.
    pub fn norms(&self) -> &TargetNorms {
        &self.norms
    }

    /// E_1, …, E_L̄.
    pub fn discrepancies(&self) -> &[Discrepancy] {
        &self.discrepancies
    }

    /// e_i = σ_{1+ΣR_l}(E_i) for every target layer.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless there is a rank for every frozen layer.
    pub fn layer_errors(&self, ranks: &[usize]) -> Result<Vec<f64>, Error> {
        let budgets = self.budgets(ranks)?;
        let gaps = self.discrepancies.iter().zip(budgets);
        Ok(gaps.map(|(gap, budget)| gap.layer_error(budget)).collect())
    }

    /// Whether the budget of every block reaches rank E_i, so that the adaptation is exact.
    ///
    /// # Errors
    /// As [`Problem::layer_errors`].
    pub fn is_exact(&self, ranks: &[usize]) -> Result<bool, Error> {
        let budgets = self.budgets(ranks)?;
        Ok(self
            .discrepancies
            .iter()
            .zip(budgets)
            .all(|(gap, budget)| budget >= gap.rank()))
    }

    /// How far the discrepancies' singular values are from a second library's, at most, relative to
    /// σ₁ of each; `None` if that library's iteration does not end.
    pub fn oracle_difference(&self) -> Option<f64> {
        let mut largest: f64 = 0.0;
        for gap in &self.discrepancies {
            let own = gap.singular_values();
            let other = oracle_singular_values(gap.matrix())?;
            let scale = if own[0] > 0.0 { own[0] } else { 1.0 };
            let gaps = own.iter().zip(&other).map(|(a, b)| (a - b).abs() / scale);
            largest = gaps.fold(largest, f64::max);
        }
        Some(largest)
    }

    /// The smallest rank that is exact when every layer has it: max_i ⌈rank E_i / |P_i|⌉.
    pub fn exact_uniform_rank(&self) -> usize {
        let blocks = self.discrepancies.iter().zip(self.partition.blocks());
        blocks
            .map(|(gap, layers)| gap.rank().div_ceil(layers.len()))
            .max()
            .unwrap_or(0)
    }

    /// The four bounds that need no adapters.
    ///
    /// # Errors
    /// As [`Problem::layer_errors`].
    pub fn bounds(&self, ranks: &[usize], sigma: &SecondMoment) -> Result<Bounds, Error> {
        Bounds::new(&self.norms, &self.layer_errors(ranks)?, sigma)
    }

    /// Constructs adapters of these ranks, and biases that hold on `domain`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if ranks or domain do not fit the networks, [`Error::Singular`] if a
    /// product that has to be inverted has no inverse, [`Error::Linalg`] if a decomposition fails.
    pub fn construct(&self, ranks: &[usize], domain: Domain<'_>) -> Result<Construction, Error> {
        self.construct_with(ranks, domain, Strategy::default())
    }

    /// [`Problem::construct`] with another order or another aim.
    ///
    /// # Errors
    /// As there; [`Error::Invalid`] too if the aim needs a sample and the domain is a ball.
    pub fn construct_with(
        &self,
        ranks: &[usize],
        domain: Domain<'_>,
        strategy: Strategy,
    ) -> Result<Construction, Error> {
        self.budgets(ranks)?;
        Construction::new(self, ranks, domain, strategy)
    }

    /// Σ_{l∈P_i} R_l for every block.
    pub(crate) fn budgets(&self, ranks: &[usize]) -> Result<Vec<usize>, Error> {
        if ranks.len() != self.frozen.depth() {
            let expected = format!("one for each of {} frozen layers", self.frozen.depth());
            return Err(Error::invalid("ranks", expected, ranks.len()));
        }
        // A rank beyond D buys nothing, and a huge one must not overflow the sum.
        let width = self.target.width();
        let budget = |ranks: &[usize]| ranks.iter().map(|&rank| rank.min(width)).sum();
        Ok(self
            .partition
            .blocks()
            .iter()
            .map(|layers| budget(&ranks[layers.clone()]))
            .collect())
    }
}
