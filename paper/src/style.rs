//! Methods look the same in every figure.

use rankwise_figures::{Color, Marker, PALETTE, Stroke};
use rankwise_training::Method;

/// Every marker, in the order in which they are given out.
pub(crate) const MARKERS: [Marker; 5] = [
    Marker::Circle,
    Marker::Square,
    Marker::Triangle,
    Marker::Diamond,
    Marker::Cross,
];

/// The methods of the paper, which have the first colours.
const FIRST: [&str; 5] = ["lora", "r-lora", "gm-lora", "rm-lora", "full"];

/// One colour and marker a method, by its name in configurations: no two methods share both.
pub(crate) fn method_style(key: &str) -> (Color, Marker) {
    let place = FIRST.iter().position(|first| *first == key);
    let place = place.unwrap_or_else(|| {
        let mut others = Method::KEYS.into_iter().filter(|key| !FIRST.contains(key));
        // A name of another version stands after all of ours.
        let other = others.position(|other| other == key);
        FIRST.len() + other.unwrap_or(Method::KEYS.len())
    });
    // Eight colours and five markers repeat together only after forty.
    let (color, marker) = (place % PALETTE.len(), place % MARKERS.len());
    (PALETTE[color], MARKERS[marker])
}

/// One line style an R, by its place among `ranks`.
pub(crate) fn rank_stroke(ranks: impl Iterator<Item = usize>, rank: Option<usize>) -> Stroke {
    let mut ranks: Vec<_> = ranks.collect();
    ranks.sort_unstable();
    ranks.dedup();
    match rank.and_then(|rank| ranks.iter().position(|&other| other == rank)) {
        // One R needs nothing to tell it by.
        Some(_) if ranks.len() == 1 => Stroke::Solid,
        None => Stroke::Solid,
        Some(place) => [
            Stroke::Dotted,
            Stroke::Dashed,
            Stroke::Solid,
            Stroke::DashDot,
        ][place % 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_a_look_of_its_own() {
        let mut looks: Vec<(Color, Marker)> = Vec::new();
        for key in Method::KEYS {
            let look = method_style(key);
            assert!(!looks.contains(&look), "{key}");
            looks.push(look);
        }
        assert_eq!(method_style("rm-lora"), (PALETTE[3], Marker::Diamond));
    }
}
