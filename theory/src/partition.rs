//! Which frozen layers stand in for which target layer.

use std::ops::Range;

use crate::Error;

/// An ordered partition P = {P_1, …, P_L̄} of the frozen layers 1..L into non-empty consecutive
/// blocks: block P_i is adapted to the target's layer i.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    blocks: Vec<Range<usize>>,
}

impl Partition {
    /// Blocks of ⌊L/L̄⌋ layers; the last one takes what remains (Zeng & Lee 2024, section 3.3).
    ///
    /// ```
    /// use rankwise_theory::Partition;
    ///
    /// let partition = Partition::uniform(5, 2)?;
    /// assert_eq!(partition.blocks(), [0..2, 2..5]);
    /// # Ok::<(), rankwise_theory::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] unless 1 ≤ L̄ ≤ L.
    pub fn uniform(frozen_layers: usize, target_layers: usize) -> Result<Self, Error> {
        if target_layers == 0 || target_layers > frozen_layers {
            return Err(Error::invalid(
                "target layers of a partition",
                format!("1 to {frozen_layers}, the number of frozen layers"),
                target_layers,
            ));
        }
        let size = frozen_layers / target_layers;
        let mut sizes = vec![size; target_layers];
        sizes[target_layers - 1] += frozen_layers % target_layers;
        Self::from_sizes(&sizes)
    }

    /// Blocks of the given sizes, one after another.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no block or an empty one.
    pub fn from_sizes(sizes: &[usize]) -> Result<Self, Error> {
        if sizes.is_empty() {
            return Err(Error::invalid("partition", "at least one block", "none"));
        }
        let mut next = 0;
        let mut blocks = Vec::with_capacity(sizes.len());
        for (block, &size) in (1..).zip(sizes) {
            if size == 0 {
                let what = format!("block {block} of the partition");
                return Err(Error::invalid(what, "at least one layer", "none"));
            }
            blocks.push(next..next + size);
            next += size;
        }
        Ok(Self { blocks })
    }

    /// Blocks as lists of layer numbers from 1, such as `[[1, 2], [3]]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless the lists, read one after another, count 1, 2, … without a gap,
    /// and none is empty.
    pub fn from_layers(blocks: &[Vec<usize>]) -> Result<Self, Error> {
        for (expected, &found) in (1..).zip(blocks.iter().flatten()) {
            if found != expected {
                return Err(Error::invalid(
                    "order of layers",
                    format!("layer {expected} next, as layers are consecutive from 1"),
                    found,
                ));
            }
        }
        let sizes: Vec<usize> = blocks.iter().map(Vec::len).collect();
        Self::from_sizes(&sizes)
    }

    /// The blocks as ranges of layer indices from 0, in order.
    pub fn blocks(&self) -> &[Range<usize>] {
        &self.blocks
    }

    /// L: how many frozen layers the blocks cover.
    pub fn frozen_layers(&self) -> usize {
        self.blocks.iter().map(Range::len).sum()
    }

    /// L̄: the number of blocks.
    pub fn target_layers(&self) -> usize {
        self.blocks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uneven_blocks_from_layers() {
        let partition =
            Partition::from_layers(&[vec![1], vec![2, 3, 4], vec![5, 6]]).expect("valid");
        assert_eq!(partition.blocks(), [0..1, 1..4, 4..6]);
        assert_eq!(
            (partition.frozen_layers(), partition.target_layers()),
            (6, 3)
        );
    }

    #[test]
    fn gaps_repeats_and_empty_blocks_are_refused() {
        for blocks in [
            vec![vec![1, 3]],
            vec![vec![1], vec![1, 2]],
            vec![vec![2], vec![1]],
        ] {
            let error = Partition::from_layers(&blocks).expect_err("not consecutive");
            assert!(error.to_string().contains("consecutive"), "{error}");
        }
        for blocks in [vec![], vec![vec![1], vec![]]] {
            let error = Partition::from_layers(&blocks).expect_err("an empty block");
            assert!(error.to_string().ends_with("found none"), "{error}");
        }
        assert!(Partition::uniform(2, 3).is_err());
        assert!(Partition::uniform(2, 0).is_err());
    }
}
