#![no_main]
//! The JPEG decoder. Its module is built from its file: with the crate's features would come a table
//! library and decoders of other formats.

use libfuzzer_sys::fuzz_target;
use rankwise_fuzz::within_bounds;

#[path = "../../data/src/image/jpeg/mod.rs"]
mod jpeg;

/// Pixels that a file may claim: their bytes, planes and coefficients stay within what any reader may
/// take.
const MOST_PIXELS: usize = 1 << 17;

fuzz_target!(|input: &[u8]| {
    within_bounds(input.to_vec(), |input| jpeg::decode(&input, MOST_PIXELS).is_ok());
});
