//! How an update is put together from the tensors of an adapter file, and the putting together.
//!
//! | symbol | identifier |
//! |---|---|
//! | B, A | `b`, `a`: outputs × R and R × inputs |
//! | Tucker core C, R × R × window | `core`: ΔW[o, (i, k)] = Σ_pq B[o, p] C[p, q, k] D[q, i] |
//! | m | `magnitude`: DoRA's ‖row‖ of the tuned weight |
//!
//! Sources: the layers of huggingface/peft, KohakuBlueleaf/LyCORIS, kohya-ss/sd-scripts and
//! microsoft/LoRA; S.-Y. Liu et al., “DoRA”, 2024; H. Liu et al., “(IA)³”, 2022; D. J. Kopiczko et
//! al., “VeRA”, 2024.

use ndarray::{Array1, Array2, Axis, Slice};

use super::Adapter;
use super::base::{BaseWeight, flat};
use crate::Error;
use crate::update::{Update, khatri_rao};

/// A matrix as one tensor keeps it: entry (i, j) at `offset` + i·`row_step` + j·`column_step`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub tensor: String,
    pub rows: usize,
    pub columns: usize,
    pub offset: usize,
    pub row_step: usize,
    pub column_step: usize,
}

impl Stored {
    /// Row by row.
    pub fn rows_first(tensor: &str, rows: usize, columns: usize) -> Self {
        Self {
            tensor: tensor.to_owned(),
            rows,
            columns,
            offset: 0,
            row_step: columns,
            column_step: 1,
        }
    }

    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_step: self.column_step,
            column_step: self.row_step,
            ..self
        }
    }

    /// Whether it is all of a tensor of this shape, and then whether it is transposed.
    pub fn is_whole(&self, shape: &[usize]) -> Option<bool> {
        let (rows, columns) = flat(shape);
        let steps = (self.rows, self.columns, self.row_step, self.column_step);
        if self.offset != 0 {
            return None;
        }
        if steps == (rows, columns, columns, 1) {
            return Some(false);
        }
        (steps == (columns, rows, 1, columns)).then_some(true)
    }

    /// The rows from `begin` on, every `step`th.
    pub fn some_rows(self, begin: usize, step: usize, rows: usize) -> Self {
        Self {
            rows,
            offset: self.offset + begin * self.row_step,
            row_step: self.row_step * step,
            ..self
        }
    }

    /// The columns from `begin` on, every `step`th.
    pub fn some_columns(self, begin: usize, step: usize, columns: usize) -> Self {
        self.transposed()
            .some_rows(begin, step, columns)
            .transposed()
    }

    fn of(&self, values: &[f64]) -> Array2<f64> {
        Array2::from_shape_fn((self.rows, self.columns), |(i, j)| {
            values[self.offset + i * self.row_step + j * self.column_step]
        })
    }
}

/// One factor of a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Factor {
    Stored(Stored),
    /// diag(`scales`)·matrix.
    ScaledRows {
        matrix: Stored,
        scales: String,
    },
    /// The right factor of a Tucker decomposition: Σ_q core[p, (q, k)] down[q, i] at [p, (i, k)].
    Tucker {
        core: Stored,
        down: Stored,
    },
}

impl Factor {
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Stored(matrix) | Self::ScaledRows { matrix, .. } => (matrix.rows, matrix.columns),
            Self::Tucker { core, down } => {
                let window = core.columns.checked_div(down.rows).unwrap_or(0);
                (core.rows, window * down.columns)
            }
        }
    }
}

/// How ΔW, or its transpose, is made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Recipe {
    /// s·B·A.
    Product { b: Factor, a: Factor },
    /// A convolution in groups: the groups' products as blocks on a diagonal.
    Groups { b: Stored, a: Stored, groups: usize },
    /// Several outputs in one layer, each with an A of its own: their products one below the other.
    Stacked { b: Stored, a: Stored, count: usize },
    /// s·(B₁A₁) ∘ (B₂A₂).
    Hadamard {
        first: (Factor, Factor),
        second: (Factor, Factor),
    },
    /// s·(L ⊗ M), either side whole or as a product.
    Kronecker { left: Side, right: Side },
    /// diag(b)·B[:outputs]·diag(d)·A[:, :inputs] with B and A for all modules.
    Vera {
        d: String,
        b: String,
        rank: usize,
        inputs: usize,
        outputs: usize,
    },
    /// DoRA: diag(m/‖W + V‖)(W + V) − W, V the update inside.
    Directions {
        inside: Box<Recipe>,
        magnitude: String,
        of: Of,
        weight: BaseWeight,
    },
    /// (IA)³: rows or columns of W multiplied by a vector (or by 1 + the vector), less W.
    Rescaled {
        vector: String,
        is_increase: bool,
        of: Of,
        weight: BaseWeight,
    },
    /// GLoRA: s·(W·A₁·A₂ + B₁·B₂).
    Glora {
        a: (Stored, Stored),
        b: (Stored, Stored),
        weight: BaseWeight,
    },
    /// The tuned weight less W.
    Whole { tuned: Stored, weight: BaseWeight },
    /// New rows of an embedding less W's.
    Tokens {
        tuned: Stored,
        rows: Vec<usize>,
        weight: BaseWeight,
    },
    /// ΔW as it is.
    Difference(Stored),
}

/// What a vector has a number for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// Every row: an output.
    Rows,
    /// So many columns: an input, with all of a kernel's window.
    Columns(usize),
}

/// One side of a Kronecker product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Side {
    Whole(Stored),
    Product(Factor, Factor),
}

impl Side {
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Whole(matrix) => (matrix.rows, matrix.columns),
            Self::Product(b, a) => (b.shape().0, a.shape().1),
        }
    }

    /// The most singular values that can differ from zero.
    pub fn budget(&self) -> usize {
        let (m, n) = self.shape();
        match self {
            Self::Whole(_) => m.min(n),
            Self::Product(b, _) => b.shape().1.min(m).min(n),
        }
    }
}

impl Recipe {
    /// Rows and columns of what is made.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Product { b, a } => (b.shape().0, a.shape().1),
            Self::Groups { b, a, groups } => (b.rows, a.columns * groups),
            Self::Stacked { b, a, .. } => (b.rows, a.columns),
            Self::Hadamard { first, .. } => (first.0.shape().0, first.1.shape().1),
            Self::Kronecker { left, right } => {
                let ((m, n), (p, q)) = (left.shape(), right.shape());
                (m * p, n * q)
            }
            Self::Vera {
                inputs, outputs, ..
            } => (*outputs, *inputs),
            Self::Directions { weight, .. }
            | Self::Rescaled { weight, .. }
            | Self::Glora { weight, .. }
            | Self::Whole { weight, .. }
            | Self::Tokens { weight, .. } => weight.matrix(),
            Self::Difference(matrix) => (matrix.rows, matrix.columns),
        }
    }

    /// Whether it makes a left and a right factor.
    pub fn is_product(&self) -> bool {
        match self {
            Self::Product { .. } | Self::Vera { .. } => true,
            Self::Stacked { b, a, .. } => a.rows < b.rows.min(a.columns),
            Self::Hadamard { first, second } => {
                let (m, n) = self.shape();
                let rank = first.0.shape().1.saturating_mul(second.0.shape().1);
                rank < m.min(n)
            }
            _ => false,
        }
    }

    /// The names of the tensors that are read for it.
    pub fn tensors(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.collect(&mut names);
        names
    }

    fn collect<'a>(&'a self, names: &mut Vec<&'a str>) {
        fn factor<'a>(factor: &'a Factor, names: &mut Vec<&'a str>) {
            match factor {
                Factor::Stored(m) => names.push(&m.tensor),
                Factor::ScaledRows { matrix, scales } => {
                    names.extend([matrix.tensor.as_str(), scales.as_str()]);
                }
                Factor::Tucker { core, down } => {
                    names.extend([core.tensor.as_str(), down.tensor.as_str()]);
                }
            }
        }
        match self {
            Self::Product { b, a } => {
                factor(b, names);
                factor(a, names);
            }
            Self::Groups { b, a, .. } | Self::Stacked { b, a, .. } => {
                names.extend([b.tensor.as_str(), a.tensor.as_str()]);
            }
            Self::Hadamard { first, second } => {
                for one in [&first.0, &first.1, &second.0, &second.1] {
                    factor(one, names);
                }
            }
            Self::Kronecker { left, right } => {
                for side in [left, right] {
                    match side {
                        Side::Whole(matrix) => names.push(&matrix.tensor),
                        Side::Product(b, a) => {
                            factor(b, names);
                            factor(a, names);
                        }
                    }
                }
            }
            Self::Vera { d, b, .. } => names.extend([d.as_str(), b.as_str()]),
            Self::Directions {
                inside, magnitude, ..
            } => {
                inside.collect(names);
                names.push(magnitude);
            }
            Self::Rescaled { vector, .. } => names.push(vector),
            Self::Glora { a, b, .. } => {
                for one in [&a.0, &a.1, &b.0, &b.1] {
                    names.push(&one.tensor);
                }
            }
            Self::Whole { tuned, .. } | Self::Tokens { tuned, .. } => names.push(&tuned.tensor),
            Self::Difference(matrix) => names.push(&matrix.tensor),
        }
    }
}

impl Adapter {
    /// Reads what a recipe needs and makes the update, `scale` included.
    pub(super) fn made(&self, recipe: &Recipe, scale: f64) -> Result<Update, Error> {
        Ok(match recipe {
            Recipe::Product { b, a } => Update::Product {
                b: self.factor(b)?,
                a: self.factor(a)?,
                scale,
            },
            Recipe::Groups { b, a, groups } => {
                let (b, a) = (self.stored(b)?, self.stored(a)?);
                let (rows, rank) = (b.nrows() / groups, a.nrows() / groups);
                let block = |g: usize| Update::Product {
                    b: part(&b, Axis(0), g * rows..(g + 1) * rows),
                    a: part(&a, Axis(0), g * rank..(g + 1) * rank),
                    scale,
                };
                Update::Blocks((0..*groups).map(block).collect())
            }
            Recipe::Stacked { b, a, count } => {
                let (b, a) = (self.stored(b)?, self.stored(a)?);
                let (rows, rank) = ((b.nrows() / count).max(1), b.ncols());
                // A rank that the matrix cannot have is not worth its factors.
                if a.nrows() >= b.nrows().min(a.ncols()) {
                    let mut whole = Array2::zeros((b.nrows(), a.ncols()));
                    for k in 0..*count {
                        let own = Slice::from(k * rows..(k + 1) * rows);
                        let product = b
                            .slice_axis(Axis(0), own)
                            .dot(&a.slice_axis(Axis(0), Slice::from(k * rank..(k + 1) * rank)));
                        whole
                            .slice_axis_mut(Axis(0), own)
                            .assign(&(product * scale));
                    }
                    return Ok(Update::Dense(whole));
                }
                // Every output's B in columns of its own: one product of rank count·R.
                let wide = Array2::from_shape_fn((b.nrows(), a.nrows()), |(i, j)| {
                    if i / rows == j / rank {
                        b[(i, j % rank)]
                    } else {
                        0.0
                    }
                });
                Update::Product { b: wide, a, scale }
            }
            Recipe::Hadamard { first, second } => {
                let first = (self.factor(&first.0)?, self.factor(&first.1)?);
                let second = (self.factor(&second.0)?, self.factor(&second.1)?);
                let (m, n) = recipe.shape();
                // A rank that the matrix cannot have is not worth its factors.
                if first.0.ncols() * second.0.ncols() >= m.min(n) {
                    let whole = first.0.dot(&first.1) * second.0.dot(&second.1) * scale;
                    return Ok(Update::Dense(whole));
                }
                let (b, a) = khatri_rao(
                    (first.0.view(), first.1.view()),
                    (second.0.view(), second.1.view()),
                );
                Update::Product { b, a, scale }
            }
            Recipe::Kronecker { left, right } => Update::Kronecker {
                left: Box::new(self.side(left)?),
                right: Box::new(self.side(right)?),
                scale,
            },
            Recipe::Vera {
                d,
                b,
                inputs,
                outputs,
                ..
            } => {
                let (shared_a, shared_b) = self.projections()?;
                let (d, b) = (self.column(d)?, self.column(b)?);
                Update::Product {
                    b: part(&shared_b, Axis(0), 0..*outputs) * b.insert_axis(Axis(1)),
                    a: part(&shared_a, Axis(1), 0..*inputs) * d.insert_axis(Axis(1)),
                    scale,
                }
            }
            Recipe::Directions {
                inside,
                magnitude,
                of,
                weight,
            } => {
                let before = self.base_matrix(weight)?;
                let inside = self.made(inside, scale)?.to_dense();
                let magnitude = self.column(magnitude)?;
                Update::Dense(redirected(&before, &inside, &magnitude, *of))
            }
            Recipe::Rescaled {
                vector,
                is_increase,
                of,
                weight,
            } => {
                let before = self.base_matrix(weight)?;
                let one = if *is_increase { 0.0 } else { 1.0 };
                Update::Dense(multiplied(before, &(self.column(vector)? - one), *of))
            }
            Recipe::Glora { a, b, weight } => {
                let before = self.base_matrix(weight)?;
                let (a1, a2) = (self.stored(&a.0)?, self.stored(&a.1)?);
                let (b1, b2) = (self.stored(&b.0)?, self.stored(&b.1)?);
                // Neither way makes more numbers than there are: R against the inputs.
                let first = if a1.ncols() < a1.nrows() {
                    contracted(&contracted(&before, &a1), &a2)
                } else {
                    contracted(&before, &a1.dot(&a2))
                };
                Update::Dense((first + b1.dot(&b2)) * scale)
            }
            Recipe::Whole { tuned, weight } => {
                Update::Dense(self.stored(tuned)? - self.base_matrix(weight)?)
            }
            Recipe::Tokens {
                tuned,
                rows,
                weight,
            } => {
                // The other rows are zero: the spectrum is that of the trained rows alone.
                let before = self.base_matrix(weight)?;
                let mut change = self.stored(tuned)?;
                for (mut row, &of) in change.rows_mut().into_iter().zip(rows) {
                    row -= &before.row(of);
                }
                Update::Dense(change)
            }
            Recipe::Difference(matrix) => Update::Dense(self.stored(matrix)? * scale),
        })
    }

    pub(super) fn stored(&self, matrix: &Stored) -> Result<Array2<f64>, Error> {
        Ok(matrix.of(&self.weights.read(&matrix.tensor)?))
    }

    pub(super) fn column(&self, tensor: &str) -> Result<Array1<f64>, Error> {
        Ok(Array1::from(self.weights.read(tensor)?))
    }

    fn side(&self, side: &Side) -> Result<Update, Error> {
        Ok(match side {
            Side::Whole(matrix) => Update::Dense(self.stored(matrix)?),
            Side::Product(b, a) => Update::Product {
                b: self.factor(b)?,
                a: self.factor(a)?,
                scale: 1.0,
            },
        })
    }

    fn factor(&self, factor: &Factor) -> Result<Array2<f64>, Error> {
        match factor {
            Factor::Stored(matrix) => self.stored(matrix),
            Factor::ScaledRows { matrix, scales } => {
                Ok(self.stored(matrix)? * self.column(scales)?.insert_axis(Axis(1)))
            }
            Factor::Tucker { core, down } => {
                let (core, down) = (self.stored(core)?, self.stored(down)?);
                Ok(contracted(&core, &down))
            }
        }
    }
}

/// Σ_q core[p, (q, k)] down[q, i] at [p, (i, k)]: core p × (q·window), down q × i.
fn contracted(core: &Array2<f64>, down: &Array2<f64>) -> Array2<f64> {
    let (q, inputs) = down.dim();
    let window = core.ncols().checked_div(q).unwrap_or(0);
    let mut whole = Array2::zeros((core.nrows(), inputs * window));
    if inputs == 0 {
        return whole;
    }
    for k in 0..window {
        let every = Slice::new(k as isize, None, window as isize);
        let plane = core.slice_axis(Axis(1), every).dot(down);
        whole.slice_axis_mut(Axis(1), every).assign(&plane);
    }
    whole
}

fn part(matrix: &Array2<f64>, axis: Axis, range: std::ops::Range<usize>) -> Array2<f64> {
    matrix.slice_axis(axis, Slice::from(range)).to_owned()
}

/// DoRA's change of W: every row (or input) of W + V brought to its magnitude, less W.
fn redirected(
    weight: &Array2<f64>,
    inside: &Array2<f64>,
    magnitude: &Array1<f64>,
    of: Of,
) -> Array2<f64> {
    let whole = weight + inside;
    let squares = &whole * &whole;
    let sums = match of {
        Of::Rows => squares.sum_axis(Axis(1)),
        Of::Columns(window) => {
            let columns = squares.sum_axis(Axis(0)).to_vec();
            columns
                .chunks(window.max(1))
                .map(|c| c.iter().sum())
                .collect()
        }
    };
    multiplied(whole, &(magnitude / sums.mapv(f64::sqrt)), of) - weight
}

/// Every row, or every input's columns, times its number.
fn multiplied(matrix: Array2<f64>, numbers: &Array1<f64>, of: Of) -> Array2<f64> {
    match of {
        Of::Rows => matrix * numbers.view().insert_axis(Axis(1)),
        Of::Columns(window) => {
            let wide = (0..matrix.ncols()).map(|j| numbers[j / window.max(1)]);
            matrix * &wide.collect::<Array1<f64>>()
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn a_tucker_core_is_contracted_over_its_second_index() {
        // One output direction, two input directions, a window of two.
        let core = array![[1.0, 10.0, 2.0, 20.0]];
        let down = array![[1.0, 3.0], [0.0, 5.0]];
        // At [0, (i, k)]: core[0, (0, k)]·down[0, i] + core[0, (1, k)]·down[1, i].
        assert_eq!(contracted(&core, &down), array![[1.0, 10.0, 13.0, 130.0]]);
        let none = Array2::zeros((2, 0));
        assert_eq!(contracted(&core, &none).dim(), (1, 0));
    }

    #[test]
    fn directions_keep_the_magnitude_that_was_trained() {
        let weight = array![[3.0, 0.0], [0.0, 1.0]];
        let inside = array![[0.0, 4.0], [0.0, 0.0]];
        let change = redirected(&weight, &inside, &array![10.0, 1.0], Of::Rows);
        // The first row (3, 4) of length 5 becomes (6, 8).
        assert_eq!(change, array![[3.0, 8.0], [0.0, 0.0]]);
        let columns = redirected(
            &weight,
            &inside,
            &array![6.0, 17_f64.sqrt()],
            Of::Columns(1),
        );
        assert_eq!(columns, array![[3.0, 4.0], [0.0, 0.0]]);
        // Both columns belong to one input: all of (3, 4, 0, 1) is doubled.
        let window = redirected(
            &weight,
            &inside,
            &array![2.0 * 26_f64.sqrt()],
            Of::Columns(2),
        );
        assert_eq!(window, array![[3.0, 8.0], [0.0, 1.0]]);
    }

    #[test]
    fn strided_views_pick_their_entries() {
        let values: Vec<f64> = (0..12).map(f64::from).collect();
        let whole = Stored::rows_first("t", 3, 4);
        assert_eq!(whole.clone().transposed().of(&values)[(3, 1)], 7.0);
        let columns = whole.clone().some_columns(1, 2, 2).of(&values);
        assert_eq!(columns, array![[1.0, 3.0], [5.0, 7.0], [9.0, 11.0]]);
        assert_eq!(
            whole.some_rows(2, 1, 1).of(&values),
            array![[8.0, 9.0, 10.0, 11.0]]
        );
    }
}
