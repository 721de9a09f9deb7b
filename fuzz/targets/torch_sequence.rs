#![no_main]
//! PyTorch's older format: what follows the three pickles that all such files begin with.

use libfuzzer_sys::fuzz_target;
use rankwise_analysis::fuzzing;
use rankwise_fuzz::within_bounds;

const BEGINNING: &[u8] =
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\
    \x80\x02}X\x0d\0\0\0little_endian\x88s.";

fuzz_target!(|input: &[u8]| within_bounds([BEGINNING, input].concat(), fuzzing::container));
