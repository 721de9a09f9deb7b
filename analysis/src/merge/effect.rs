//! Whether a merge changed anything.

use super::record::{Merge, TensorMerge};

/// Names in a sentence before it says how many more there are.
const NAMED: usize = 3;

/// What there is to say of changes that are zero or that rounding takes away, of all tensors or some.
pub(super) fn described(tensors: &[TensorMerge]) -> Option<String> {
    let tensors: Vec<&TensorMerge> = tensors
        .iter()
        .filter(|tensor| tensor.merge != Merge::Untied)
        .collect();
    let still: Vec<&TensorMerge> = tensors
        .iter()
        .copied()
        .filter(|tensor| tensor.changed == 0 && !tensor.shape.contains(&0))
        .collect();
    let is_zero = |tensor: &&TensorMerge| tensor.change_norm == Some(0.0);
    let zero = still
        .iter()
        .copied()
        .filter(|tensor| is_zero(tensor))
        .count();
    let why = match (zero, still.len()) {
        (_, 0) => return None,
        (zero, all) if zero == all => "the adapter's change is zero".to_owned(),
        (0, _) => format!(
            "rounding to {} takes the adapter's change away",
            types(&still)
        ),
        (zero, all) => format!(
            "the adapter's change is zero ({zero}) or rounding to {} takes it away ({})",
            types(&still),
            all - zero
        ),
    };
    if still.len() == tensors.len() {
        return Some(format!(
            "the merged model is the base: in all {} tensors {why}",
            still.len()
        ));
    }
    let names: Vec<&str> = still.iter().take(NAMED).map(|t| t.name.as_str()).collect();
    let more = match still.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "{} of {} tensors are the base's: {why} ({}{more})",
        still.len(),
        tensors.len(),
        names.join(", ")
    ))
}

/// The types of the tensors, each once.
fn types(tensors: &[&TensorMerge]) -> String {
    let mut types: Vec<&str> = tensors.iter().map(|tensor| tensor.dtype.as_str()).collect();
    types.sort_unstable();
    types.dedup();
    types.join(", ")
}
