#![no_main]
//! An index of shards by its bytes; the shards are not there.

use libfuzzer_sys::fuzz_target;
use rankwise_analysis::fuzzing;
use rankwise_fuzz::within_bounds;

fuzz_target!(|input: &[u8]| within_bounds(input.to_vec(), fuzzing::index));
