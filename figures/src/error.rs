use thiserror::Error;

/// Why a figure could not be drawn.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The figure has no panel, or a panel has nothing finite to show.
    #[error("`{title}`: expected at least one finite point, got none")]
    Empty {
        /// Title of the panel; empty for a figure without panels.
        title: String,
    },
    /// The columns of a curve differ in length.
    #[error(
        "`{title}`, curve `{label}`: expected {expected} values of `{field}` as of `x`, got {found}"
    )]
    Length {
        /// Title of the panel.
        title: String,
        /// Label of the curve.
        label: String,
        /// Which column disagrees with `x`.
        field: &'static str,
        /// Length of `x`.
        expected: usize,
        /// Length of the column.
        found: usize,
    },
    /// A range is not finite, not increasing, or holds nothing.
    #[error("`{title}`: expected an increasing finite {what}, got {low} to {high}")]
    Range {
        /// Title of the panel.
        title: String,
        /// Which range.
        what: &'static str,
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
    },
    /// The floor of a logarithmic axis is not a positive normal number.
    #[error("`{title}`: expected a positive logarithmic floor, got {found:e}")]
    Floor {
        /// Title of the panel.
        title: String,
        /// The floor.
        found: f64,
    },
    /// A count is outside what a page can carry.
    #[error("expected 1 to {most} {what}, got {found}")]
    Count {
        /// What was counted.
        what: &'static str,
        /// The largest count drawn.
        most: usize,
        /// The count asked for.
        found: usize,
    },
    /// Two panels use one label with different colours, strokes or markers, so
    /// that no shared legend can be right.
    #[error("label `{label}`: expected one style in all panels, got two")]
    Legend {
        /// The label.
        label: String,
    },
    /// The drawing backend or the PNG encoder failed.
    #[error("drawing failed: {message}")]
    Drawing {
        /// What it said.
        message: String,
    },
}
