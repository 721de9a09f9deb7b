#![no_main]
//! A table of metrics in JSON or JSON Lines by its bytes.

use libfuzzer_sys::fuzz_target;
use rankwise_data::fuzzing;
use rankwise_fuzz::within_bounds;

fuzz_target!(|input: &[u8]| within_bounds(input.to_vec(), |text| fuzzing::json(&text)));
