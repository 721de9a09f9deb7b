/// What can go wrong in a verification: every variant says what was expected and what was there.
///
/// A bound that fails is no error but a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An input has the wrong shape, is out of its range or is not finite.
    #[error("{what}: expected {expected}, found {found}")]
    Invalid {
        /// What was given, such as `target weight 2` or a path inside a case file.
        what: String,
        /// What would have been accepted.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The construction has to invert a product of layers that has no inverse to working precision.
    #[error(
        "the construction meets a singular factor at layer {layer}: expected a product of \
         condition number below {limit:.1e}, found {condition:.1e}"
    )]
    Singular {
        /// The worst conditioned layer of that product, from 1 over the whole frozen network.
        layer: usize,
        /// σ₁/σ_D of the product; infinite if σ_D is zero.
        condition: f64,
        /// The largest condition number that is accepted.
        limit: f64,
    },
    /// A decomposition failed.
    #[error(transparent)]
    Linalg(#[from] rankwise_analysis::Error),
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] rankwise_data::Error),
    /// A case file is not JSON.
    #[error("{file}: expected JSON, found {found}")]
    Json {
        /// The file.
        file: String,
        /// Where and what.
        found: serde_json::Error,
    },
}

impl Error {
    pub(crate) fn invalid(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::Invalid {
            what: what.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}
