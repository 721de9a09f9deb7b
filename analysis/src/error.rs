use std::path::Path;

/// What can go wrong in an analysis: every variant says what was expected and what was there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An entry is NaN or infinite.
    #[error("{what}: expected finite numbers, found {value} at row {row}, column {column}")]
    NonFinite {
        /// The matrix, such as `factor B`.
        what: &'static str,
        /// Row of the first such entry, from 0.
        row: usize,
        /// Its column, from 0.
        column: usize,
        /// The entry.
        value: f64,
    },
    /// Two sizes do not fit together, or a number is out of its range.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// What was given.
        what: &'static str,
        /// What would have fitted.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The iteration for the singular values did not end.
    #[error("the singular values of a {rows} x {columns} matrix did not converge")]
    NoConvergence {
        /// Rows of the matrix.
        rows: usize,
        /// Its columns.
        columns: usize,
    },
    /// A linear system without one reliable digit in its solution.
    #[error(
        "a {size} x {size} matrix is singular to working precision: expected a condition number \
         below {limit:.1e}, found {condition:.1e}"
    )]
    Singular {
        /// Rows and columns of the matrix.
        size: usize,
        /// Estimate of ‖M‖₁‖M⁻¹‖₁; infinite if a pivot is exactly zero.
        condition: f64,
        /// The largest condition number that is accepted, 1/ε.
        limit: f64,
    },
    /// What went wrong with one module of an adapter or one matrix of a model.
    #[error("{name}: {reason}")]
    Module {
        /// Its name.
        name: String,
        /// What went wrong.
        reason: Box<Error>,
    },
    /// A rule is not of the language that [`Rule`](crate::Rule) describes.
    #[error("rule {rule:?}, character {position}: expected {expected}, found {found}")]
    Rule {
        /// The rule.
        rule: String,
        /// Where it stops making sense, from 1.
        position: usize,
        /// What could stand there.
        expected: String,
        /// What does.
        found: String,
    },
    /// A file cannot be read or written, or is not what its format says.
    #[error(transparent)]
    File(#[from] rankwise_data::Error),
}

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| {
            rankwise_data::Error::Io {
                path,
                action,
                source,
            }
            .into()
        }
    }

    /// The same error, with the name of the module that it is about.
    pub(crate) fn of_module(self, name: &str) -> Self {
        Self::Module {
            name: name.to_owned(),
            reason: Box::new(self),
        }
    }

    pub(crate) fn format(
        path: &Path,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        let (path, what) = (path.to_path_buf(), what.into());
        let (expected, found) = (expected.into(), found.into());
        rankwise_data::Error::Format {
            path,
            what,
            expected,
            found,
        }
        .into()
    }
}
