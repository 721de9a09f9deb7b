#![no_main]
//! The whole audit of a folder: the first two bytes are the length of `adapter_config.json`, the
//! next one says under what name the rest lies.

use std::cell::RefCell;
use std::fs;

use libfuzzer_sys::fuzz_target;
use rankwise_analysis::{AuditOptions, audit};
use rankwise_fuzz::within_bounds;
use tempfile::TempDir;

const NAMES: [&str; 4] = [
    "adapter_model.safetensors",
    "adapter_model.bin",
    "lora.safetensors",
    "adapter_model.safetensors.index.json",
];

thread_local! {
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

fuzz_target!(|input: &[u8]| {
    let &[low, high, name, ref rest @ ..] = input else {
        return;
    };
    let (config, weights) =
        rest.split_at(usize::from(u16::from_le_bytes([low, high])).min(rest.len()));
    FOLDER.with_borrow_mut(|folder| {
        let folder = folder.get_or_insert_with(|| {
            // In memory where there is such a place.
            tempfile::tempdir_in("/dev/shm")
                .or_else(|_| tempfile::tempdir())
                .expect("a temporary folder")
        });
        for name in NAMES {
            let _ = fs::remove_file(folder.path().join(name));
        }
        let file = folder.path().join(NAMES[usize::from(name) % NAMES.len()]);
        fs::write(file, weights).expect("written");
        let of_config = folder.path().join("adapter_config.json");
        if config.is_empty() {
            let _ = fs::remove_file(of_config);
        } else {
            fs::write(of_config, config).expect("written");
        }
        within_bounds(input.to_vec(), |_| {
            let audit =
                audit(folder.path(), &AuditOptions::default()).expect("the folder is there");
            assert!(!audit.adapters.is_empty() || !audit.refused.is_empty());
        });
    });
});
