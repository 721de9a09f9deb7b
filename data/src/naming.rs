/// Names in a message before it says how many more there are.
const NAMED: usize = 6;

/// The first names of a list, and how many more there are.
///
/// ```
/// let names = ["a", "b", "c", "d", "e", "f", "g"].map(str::to_owned);
/// assert_eq!(rankwise_data::first_names(&names[..2]), "a, b");
/// assert_eq!(rankwise_data::first_names(&names), "a, b, c, d, e, f and 1 more");
/// ```
pub fn first_names(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
