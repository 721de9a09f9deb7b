//! Transformers: the exact theorem, and what happens below its threshold.
//!
//! # Claim
//! The network has L blocks of H heads, no skip connections and no normalisation; with Z of D × N
//! (a token a column)
//!
//! ```text
//! Attn_l(Z) = Σ_h W_O^h W_V^h Z softmax(Zᵀ W_K^hᵀ W_Q^h Z)
//! Z_l = W_2 ReLU(W_1 Attn_l(Z_{l−1}) + b_1 1ᵀ) + b_2 1ᵀ,    output softmax(W_o Z_L)
//! ```
//!
//! with softmax over columns. Let f̄ and f₀ be two such networks of one size with non-singular
//! weights, and G the largest rank among, for every block and head with T_l = W_2 W̄_2⁻¹ of the block
//! before (T = I for the first),
//!
//! - T⁻ᵀ W̄_Kᵀ W̄_Q T⁻¹ − W_Kᵀ W_Q,
//! - W_1⁻¹ W̄_1 W̄_O W̄_V T⁻¹ − W_O W_V,
//! - W̄_o W̄_2 − W_o W_2 of the last block.
//!
//! Adapters of rank R ≥ ⌈G/2⌉ on W_K, W_Q, W_V, W_O, W_o and the last W_2, with b_1 and b_2
//! replaced, make f₀ equal to f̄ on every input.
//!
//! # Proof sketch
//! Blocks need not agree on Z_l, only on what stands before W_2: with b̂_2 = T b̄_2 the adapted
//! network has Z_l = T Z̄_l, and the next block's products undo T. Each gap is spread over the two
//! factors of its product as in a block of two linear layers ([`Construction`](crate::Construction)),
//! R triplets each. W_1 needs no adapter.
//!
//! Below the threshold no bound is known; [`transformer_curve`] measures the same construction with
//! every gap's best approximation of rank 2R.
//!
//! Source: Zeng & Lee, “The Expressive Power of Low-Rank Adaptation”, ICLR 2024, Theorem 7.

mod adaptation;
mod curve;

pub use adaptation::{TransformerAdaptation, TransformerPair};
pub use curve::{TransformerGrid, TransformerRecord, transformer_curve};

use ndarray::{Array1, Array2, ArrayView2, Axis};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::StandardNormal;
use rand::Rng;

use crate::Error;

/// One attention head, all D × D.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// W_Q.
    pub query: Array2<f64>,
    /// W_K.
    pub key: Array2<f64>,
    /// W_V.
    pub value: Array2<f64>,
    /// W_O.
    pub output: Array2<f64>,
}

/// One block: attention, then two linear layers with a ReLU between them.
#[derive(Debug, Clone, PartialEq)]
pub struct TransformerBlock {
    /// The heads, whose outputs are added up.
    pub heads: Vec<Head>,
    /// W_1, D × D.
    pub first: Array2<f64>,
    /// b_1, D.
    pub first_bias: Array1<f64>,
    /// W_2, D × D.
    pub second: Array2<f64>,
    /// b_2, D.
    pub second_bias: Array1<f64>,
}

/// A transformer of the theorem's kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Transformer {
    /// The blocks, the first first.
    pub blocks: Vec<TransformerBlock>,
    /// W_o, D × D.
    pub output: Array2<f64>,
}

impl Transformer {
    /// Independent N(0, 1/D) entries everywhere, biases included.
    ///
    /// # Errors
    /// [`Error::Invalid`] if width, heads or blocks are zero.
    pub fn random(
        width: usize,
        heads: usize,
        blocks: usize,
        rng: &mut impl Rng,
    ) -> Result<Self, Error> {
        for (what, value) in [("width", width), ("heads", heads), ("blocks", blocks)] {
            if value == 0 {
                return Err(Error::invalid(
                    format!("{what} of the transformer"),
                    "at least 1",
                    0,
                ));
            }
        }
        let std = 1.0 / (width as f64).sqrt();
        let mut weight = || std * Array2::<f64>::random_using((width, width), StandardNormal, rng);
        let blocks: Vec<_> = (0..blocks)
            .map(|_| TransformerBlock {
                heads: (0..heads)
                    .map(|_| Head {
                        query: weight(),
                        key: weight(),
                        value: weight(),
                        output: weight(),
                    })
                    .collect(),
                first: weight(),
                first_bias: weight().row(0).to_owned(),
                second: weight(),
                second_bias: weight().row(0).to_owned(),
            })
            .collect();
        Ok(Self {
            blocks,
            output: weight(),
        })
    }

    /// D.
    pub fn width(&self) -> usize {
        self.output.nrows()
    }

    /// The output for a D × N matrix of tokens, a column each: D × N, columns that add up to one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the tokens are not of D entries, or an activation overflows.
    pub fn forward(&self, tokens: ArrayView2<'_, f64>) -> Result<Array2<f64>, Error> {
        if tokens.nrows() != self.width() {
            let expected = self.width().to_string();
            return Err(Error::invalid(
                "rows of the tokens",
                expected,
                tokens.nrows(),
            ));
        }
        let z = self
            .blocks
            .iter()
            .fold(tokens.to_owned(), |z, block| block.forward(&z));
        let output = softmax_of_columns(self.output.dot(&z));
        match output.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(Error::invalid("output", "finite numbers", value)),
            None => Ok(output),
        }
    }
}

impl TransformerBlock {
    fn forward(&self, z: &Array2<f64>) -> Array2<f64> {
        let mut attended = Array2::zeros(z.raw_dim());
        for head in &self.heads {
            let scores = head.key.dot(z).reversed_axes().dot(&head.query.dot(z));
            let mixed = head.value.dot(z).dot(&softmax_of_columns(scores));
            attended += &head.output.dot(&mixed);
        }
        let mut hidden = self.first.dot(&attended) + self.first_bias.view().insert_axis(Axis(1));
        // Not `max`, which would turn the NaN of an overflow into a zero.
        hidden.mapv_inplace(|value| if value < 0.0 { 0.0 } else { value });
        self.second.dot(&hidden) + self.second_bias.view().insert_axis(Axis(1))
    }
}

fn softmax_of_columns(mut scores: Array2<f64>) -> Array2<f64> {
    for mut column in scores.columns_mut() {
        let largest = column.fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        column.mapv_inplace(|value| (value - largest).exp());
        let total = column.sum();
        column /= total;
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    /// D = 1, N = 2, everything by hand: z = (1, 2), query = key = 1 gives scores z_i z_j.
    #[test]
    fn one_head_of_width_one_by_hand() {
        let one = || array![[1.0]];
        let block = TransformerBlock {
            heads: vec![Head {
                query: one(),
                key: one(),
                value: array![[3.0]],
                output: array![[2.0]],
            }],
            first: one(),
            first_bias: array![-7.0],
            second: array![[0.5]],
            second_bias: array![0.25],
        };
        let share = |gap: f64| 1.0 / (1.0 + f64::exp(-gap));
        // The second token's weight is softmax of (1, 2) for the first column, (2, 4) for the second.
        let attended = |gap: f64| 6.0 * ((1.0 - share(gap)) + 2.0 * share(gap));
        let expected = |gap: f64| 0.5 * (attended(gap) - 7.0).max(0.0) + 0.25;
        let z = block.forward(&array![[1.0, 2.0]]);
        assert!((z[[0, 0]] - expected(1.0)).abs() < 1e-14, "{z}");
        assert!((z[[0, 1]] - expected(2.0)).abs() < 1e-14, "{z}");
    }

    #[test]
    fn columns_of_the_softmax_add_up_to_one() {
        let out = softmax_of_columns(array![[0.0, 1000.0], [2_f64.ln(), -1000.0]]);
        let gap = &out - &array![[1.0 / 3.0, 1.0], [2.0 / 3.0, 0.0]];
        assert!(gap.iter().all(|value| value.abs() < 1e-15), "{out}");
    }
}
