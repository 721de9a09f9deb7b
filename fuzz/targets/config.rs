#![no_main]
//! An `adapter_config.json` by its bytes, and all that is asked of it for a module.

use libfuzzer_sys::fuzz_target;
use rankwise_analysis::fuzzing;
use rankwise_fuzz::within_bounds;

fuzz_target!(|input: &[u8]| within_bounds(input.to_vec(), |text| fuzzing::config(&text)));
