/// What a column of a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// Whole numbers, none missing.
    Whole,
    /// Numbers.
    Real,
    /// Texts.
    Text,
    /// Something that Parquet can hold and no reader here uses, such as lists or times.
    Other,
}

/// One column of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// Real numbers; `None` where a quantity is not defined.
    Real(Vec<Option<f64>>),
    /// Whole numbers.
    Whole(Vec<i64>),
    /// Texts.
    Text(Vec<String>),
}

impl Column {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Real(values) => values.len(),
            Self::Whole(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }
}

impl FromIterator<f64> for Column {
    /// Real numbers; NaN becomes `None`.
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let defined = |value: f64| (!value.is_nan()).then_some(value);
        Self::Real(values.into_iter().map(defined).collect())
    }
}

impl FromIterator<Option<f64>> for Column {
    fn from_iter<I: IntoIterator<Item = Option<f64>>>(values: I) -> Self {
        Self::Real(values.into_iter().collect())
    }
}

impl FromIterator<usize> for Column {
    fn from_iter<I: IntoIterator<Item = usize>>(values: I) -> Self {
        let whole = |value| i64::try_from(value).expect("counts stay below 2⁶³");
        Self::Whole(values.into_iter().map(whole).collect())
    }
}

impl FromIterator<String> for Column {
    fn from_iter<I: IntoIterator<Item = String>>(values: I) -> Self {
        Self::Text(values.into_iter().collect())
    }
}
