//! Relative positions: which row of their embeddings a distance between two tokens has.

/// r: which row of the relative embeddings a distance has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Distances {
    /// r(δ) less `first`, for δ from −(longest − 1) to longest − 1.
    rows: Vec<u32>,
    first: u32,
    count: usize,
}

impl Distances {
    /// For sequences of `longest` tokens at most. There are 2·`span` rows; `buckets` (how many on a
    /// side, and the largest position) says which distances share one.
    pub fn new(longest: usize, span: usize, buckets: Option<(usize, usize)>) -> Self {
        let last = longest.max(1) as i64 - 1;
        let rows: Vec<u32> = (-last..=last)
            .map(|distance| {
                let place = match buckets {
                    Some((count, positions)) => bucket(distance, count, positions),
                    None => distance,
                };
                place
                    .saturating_add(span as i64)
                    .clamp(0, 2 * span as i64 - 1) as u32
            })
            .collect();
        let (first, count) = extent(&rows);
        Self {
            rows: rows.into_iter().map(|row| row - first).collect(),
            first,
            count,
        }
    }

    /// The rows of the relative embeddings that are needed, ascending.
    pub fn entries(&self) -> Vec<u32> {
        (self.first..self.first + self.count as u32).collect()
    }

    /// For a sequence of `length` tokens: the first of the needed rows, how many, and r less that
    /// first, for δ from −(length − 1) to length − 1.
    pub(super) fn part(&self, length: usize) -> (usize, usize, Vec<u32>) {
        let (middle, length) = (self.rows.len() / 2, length.max(1));
        let rows = &self.rows[middle + 1 - length..middle + length];
        let (first, count) = extent(rows);
        let rows = rows.iter().map(|row| row - first).collect();
        (first as usize, count, rows)
    }
}

/// The smallest of `rows` and how far they reach.
fn extent(rows: &[u32]) -> (u32, usize) {
    let first = rows.iter().copied().min().unwrap_or(0);
    let last = rows.iter().copied().max().unwrap_or(0);
    (first, (last - first) as usize + 1)
}

/// The bucket of a distance: itself up to half of the buckets, then by logarithm up to `positions`.
/// In float32, as the reference computes it: the ceiling would show the difference.
fn bucket(distance: i64, buckets: usize, positions: usize) -> i64 {
    let middle = buckets as i64 / 2;
    if distance.abs() <= middle {
        return distance;
    }
    let middle = middle as f32;
    let furthest = ((positions as f64 - 1.0) / f64::from(middle)) as f32;
    let share = (distance.abs() as f32 / middle).ln() / furthest.ln();
    let bucket = (share * (middle - 1.0)).ceil() + middle;
    distance.signum() * bucket as i64
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn buckets_are_those_of_the_reference() {
        let path = "tests/fixtures/models/deberta-buckets.safetensors";
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let bytes = std::fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        for (buckets, positions) in [(256, 512), (8, 40), (32, 128)] {
            let name = format!("buckets.{buckets}.{positions}");
            let data = tensors.tensor(&name).unwrap();
            let (known, _) = data.data().as_chunks::<8>();
            let last = positions as i64 - 1;
            assert_eq!(known.len(), 2 * positions - 1);
            for (distance, known) in (-last..=last).zip(known) {
                let known = i64::from_le_bytes(*known);
                assert_eq!(
                    bucket(distance, buckets, positions),
                    known,
                    "{name}: {distance}"
                );
            }
        }
    }

    #[test]
    fn a_short_sequence_needs_the_rows_about_the_middle() {
        // Four rows on a side, no buckets: distances −2 to 2 are rows 2 to 6, clamped beyond.
        let distances = Distances::new(3, 4, None);
        assert_eq!(distances.entries(), [2, 3, 4, 5, 6]);
        assert_eq!(distances.part(3), (0, 5, vec![0, 1, 2, 3, 4]));
        assert_eq!(distances.part(2), (1, 3, vec![0, 1, 2]));
        let clamped = Distances::new(4, 2, None);
        assert_eq!(clamped.part(4), (0, 4, vec![0, 0, 1, 2, 3, 3, 3]));
    }
}
