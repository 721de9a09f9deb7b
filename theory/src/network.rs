//! Fully connected ReLU networks of one width.
//!
//! f(x) = ReLU(W_L ReLU(… ReLU(W_1 x + b_1) …) + b_L): the activation stands after every layer,
//! the last included (Zeng & Lee 2024, section 3.1).
//!
//! | symbol | identifier | shape |
//! |---|---|---|
//! | D | `width` | |
//! | L | `depth` | |
//! | W_l | `weights` | D × D, `y = W x` |
//! | b_l | `biases` | D |

use std::ops::Range;

use ndarray::{Array1, Array2, ArrayView2};

use crate::Error;

/// A fully connected ReLU network whose layers all have the same width.
#[derive(Debug, Clone, PartialEq)]
pub struct Fnn {
    weights: Vec<Array2<f64>>,
    biases: Vec<Array1<f64>>,
}

impl Fnn {
    /// A network from its layers, the first first.
    ///
    /// ```
    /// use ndarray::array;
    /// use rankwise_theory::Fnn;
    ///
    /// let net = Fnn::new(vec![array![[2.0, 0.0], [0.0, -1.0]]], vec![array![1.0, 0.0]])?;
    /// assert_eq!(net.forward(array![[3.0, 5.0]].view())?, array![[7.0, 0.0]]);
    /// # Ok::<(), rankwise_theory::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] unless there is at least one layer, every weight is D × D and every bias
    /// has D entries for one D ≥ 1, and all numbers are finite.
    pub fn new(weights: Vec<Array2<f64>>, biases: Vec<Array1<f64>>) -> Result<Self, Error> {
        let Some(first) = weights.first() else {
            return Err(Error::invalid("network", "at least one layer", "none"));
        };
        let width = first.nrows();
        if width == 0 {
            return Err(Error::invalid("width of the network", "at least 1", 0));
        }
        if biases.len() != weights.len() {
            return Err(Error::invalid(
                "biases of the network",
                format!("one for each of {} layers", weights.len()),
                biases.len(),
            ));
        }
        for (layer, (w, b)) in (1..).zip(weights.iter().zip(&biases)) {
            if w.dim() != (width, width) {
                return Err(Error::invalid(
                    format!("weight of layer {layer}"),
                    format!("{width} x {width}"),
                    format!("{} x {}", w.nrows(), w.ncols()),
                ));
            }
            if b.len() != width {
                let what = format!("bias of layer {layer}");
                return Err(Error::invalid(what, format!("{width} entries"), b.len()));
            }
            if let Some(value) = w.iter().chain(b).find(|value| !value.is_finite()) {
                return Err(Error::invalid(
                    format!("layer {layer}"),
                    "finite numbers",
                    value,
                ));
            }
        }
        Ok(Self { weights, biases })
    }

    /// A network without biases.
    ///
    /// # Errors
    /// As [`Fnn::new`].
    pub fn without_biases(weights: Vec<Array2<f64>>) -> Result<Self, Error> {
        let biases = weights.iter().map(|w| Array1::zeros(w.nrows())).collect();
        Self::new(weights, biases)
    }

    /// D.
    pub fn width(&self) -> usize {
        self.weights[0].nrows()
    }

    /// The number of layers.
    pub fn depth(&self) -> usize {
        self.weights.len()
    }

    /// The D × D weights, the first layer first.
    pub fn weights(&self) -> &[Array2<f64>] {
        &self.weights
    }

    /// The biases, D entries each, the first layer first.
    pub fn biases(&self) -> &[Array1<f64>] {
        &self.biases
    }

    /// The outputs for a batch: n × D in, n × D out, a point per row.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the batch does not have D columns.
    pub fn forward(&self, batch: ArrayView2<'_, f64>) -> Result<Array2<f64>, Error> {
        if batch.ncols() != self.width() {
            return Err(Error::invalid(
                "columns of the batch",
                self.width().to_string(),
                batch.ncols(),
            ));
        }
        Ok(self.forward_layers(0..self.depth(), batch))
    }

    /// The outputs of the last of `layers` for inputs of the first.
    pub(crate) fn forward_layers(
        &self,
        layers: Range<usize>,
        batch: ArrayView2<'_, f64>,
    ) -> Array2<f64> {
        layers.fold(batch.to_owned(), |z, layer| {
            let mut next = z.dot(&self.weights[layer].t());
            next += &self.biases[layer];
            // Not `max`, which would turn the NaN of an overflow into a zero.
            next.mapv_inplace(|value| if value < 0.0 { 0.0 } else { value });
            next
        })
    }
}

/// W_n … W_1: the first layer stands rightmost, no layers give the identity.
pub(crate) fn product(weights: &[Array2<f64>], width: usize) -> Array2<f64> {
    weights
        .iter()
        .fold(Array2::eye(width), |product, w| w.dot(&product))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn two_layers_by_hand() {
        let net = Fnn::new(
            vec![
                array![[1.0, -1.0], [0.0, 2.0]],
                array![[1.0, 1.0], [1.0, -1.0]],
            ],
            vec![array![0.5, -1.0], array![0.0, -3.0]],
        )
        .expect("well formed");
        // (1, 2) -> ReLU(-0.5, 3) = (0, 3) -> ReLU(3, -6) = (3, 0)
        let outputs = net.forward(array![[1.0, 2.0]].view()).expect("two columns");
        assert_eq!(outputs, array![[3.0, 0.0]]);
    }

    #[test]
    fn the_first_layer_stands_rightmost() {
        let (first, second) = (
            array![[0.0, 1.0], [0.0, 0.0]],
            array![[1.0, 0.0], [0.0, 0.0]],
        );
        assert_eq!(
            product(&[first.clone(), second.clone()], 2),
            second.dot(&first)
        );
        assert_ne!(
            product(&[first.clone(), second.clone()], 2),
            first.dot(&second)
        );
    }

    #[test]
    fn malformed_networks_are_named() {
        let eye = Array2::<f64>::eye(2);
        let message = |weights, biases| {
            Fnn::new(weights, biases)
                .expect_err("malformed")
                .to_string()
        };
        assert_eq!(
            message(vec![], vec![]),
            "network: expected at least one layer, found none"
        );
        assert_eq!(
            message(
                vec![eye.clone(), Array2::eye(3)],
                vec![Array1::zeros(2), Array1::zeros(2)]
            ),
            "weight of layer 2: expected 2 x 2, found 3 x 3"
        );
        assert_eq!(
            message(vec![eye.clone()], vec![array![0.0, f64::NAN]]),
            "layer 1: expected finite numbers, found NaN"
        );
        assert_eq!(
            message(vec![eye], vec![Array1::zeros(1)]),
            "bias of layer 1: expected 2 entries, found 1"
        );
    }
}
