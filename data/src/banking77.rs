use std::path::Path;

use crate::{Error, FeatureSet, sha256_hex};

/// Banking77 as features of all-MiniLM-L6-v2; made by `rankwise features` (see `data/README.md`).
static BANKING77: &[u8] = include_bytes!("../banking77-minilm.safetensors");

/// The attribution that the licence of the embedded data asks for.
pub const BANKING77_ATTRIBUTION: &str = "Banking77 by I. Casanueva, T. Temčinas, D. Gerz, \
    M. Henderson and I. Vulić (PolyAI), “Efficient Intent Detection with Dual Sentence Encoders”, \
    2020, licensed under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). Changed here: \
    the queries are replaced by sentence features of all-MiniLM-L6-v2 (Apache-2.0), and only the \
    first 40 training queries of every class are kept.";

/// The embedded task: 77 banking intents, 384 features, 3,075 training and 3,080 test queries
/// (CC BY 4.0; [`BANKING77_ATTRIBUTION`]).
///
/// # Errors
/// [`Error::Format`] if the program was built with a damaged copy.
pub fn banking77() -> Result<FeatureSet, Error> {
    FeatureSet::from_bytes(
        Path::new("embedded banking77-minilm.safetensors"),
        BANKING77,
    )
}

/// SHA-256 of the embedded file.
pub fn banking77_sha256() -> String {
    sha256_hex(BANKING77)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published class counts of Banking77 and the statistics of this file, from NumPy.
    #[test]
    fn the_embedded_task_is_the_published_one() {
        let set = banking77().unwrap();
        assert_eq!(set.train().width(), 384);
        let mut counts = vec![0_usize; 77];
        for &label in set.test().labels() {
            counts[label as usize] += 1;
        }
        assert_eq!(counts, vec![40; 77]);
        assert_eq!(set.classes()[0], "Refund_not_showing_up");
        assert_eq!(set.classes()[76], "wrong_exchange_rate_for_cash_withdrawal");
        assert!(
            set.notes()
                .iter()
                .any(|(key, note)| key == "licence" && note.contains("CC BY"))
        );
    }
}
