#![no_main]
//! A file of tensors by its bytes, whatever its beginning says it is; every tensor is read.

use libfuzzer_sys::fuzz_target;
use rankwise_analysis::fuzzing;
use rankwise_fuzz::within_bounds;

fuzz_target!(|input: &[u8]| within_bounds(input.to_vec(), fuzzing::container));
