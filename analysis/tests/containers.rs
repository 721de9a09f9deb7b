//! Files of tensors as other libraries write them: the same numbers come out, and what would run
//! code, is damaged or lies about a size is refused with the reason.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rankwise_analysis::fuzzing::{self, Tensor};
use rankwise_analysis::{AuditOptions, PairOptions, audit, audit_pair};
use serde::Deserialize;
use support::{audited, bytes, folder, pair};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/torch")
        .join(name)
}

/// A tensor as PyTorch's own loader gives it; NaN and infinities are null.
#[derive(Debug, PartialEq, Deserialize)]
struct Known {
    dtype: String,
    shape: Vec<usize>,
    values: Vec<Option<f64>>,
}

#[test]
fn state_dicts_hold_the_numbers_that_pytorch_reads() {
    let text = fs::read_to_string(fixture("expected.json")).unwrap();
    let known: BTreeMap<String, BTreeMap<String, Known>> = serde_json::from_str(&text).unwrap();
    assert_eq!(known.len(), 11);
    for (file, known) in known {
        let found = fuzzing::tensors(&fixture(&file)).unwrap_or_else(|error| panic!("{error}"));
        let of = |tensor: Tensor| {
            let (dtype, shape) = (tensor.dtype, tensor.shape);
            let values = tensor.values.into_iter();
            let values = values.map(|v| v.is_finite().then_some(v)).collect();
            (
                tensor.name,
                Known {
                    dtype,
                    shape,
                    values,
                },
            )
        };
        let found: BTreeMap<String, Known> = found.into_iter().map(of).collect();
        assert_eq!(found, known, "{file}");
    }
}

#[test]
fn pickles_that_would_run_code_or_lie_are_refused() {
    let mark = Path::new("/tmp/rankwise-was-here");
    assert!(!mark.exists(), "left by the fixtures' script: remove it");
    for (file, reason) in [
        ("system.bin", "found posix.system: refused, nothing was run"),
        (
            "system-alone.pt",
            "found posix.system: refused, nothing was run",
        ),
        ("eval.bin", "found __builtin__.eval: refused"),
        ("stack-global.bin", "found posix.system: refused"),
        (
            "inst.bin",
            "found an opcode of the textual protocols: refused (0x53)",
        ),
        ("obj.bin", "found os.system: refused"),
        (
            "load-from-bytes.bin",
            "found torch.storage._load_from_bytes: refused",
        ),
        (
            "expanded.bin",
            "at most 4 times the file's size, found 8796093022209 bytes",
        ),
        (
            "beyond.bin",
            "elements inside the 16 bytes of its storage, found [2, 2] with strides [2, 1] from element 1",
        ),
        ("offset.bin", "from element 4611686018427387904"),
        ("stride.bin", "with strides [4611686018427387904, 1]"),
        ("negative.bin", "strides that are whole numbers"),
        ("shape.bin", "dimensions whose product is a size"),
        (
            "dimensions.bin",
            "as many strides as dimensions, at most 64, found 2 and 3",
        ),
        ("deflated.bin", "found compression method 8"),
        (
            "big-endian.bin",
            "byteorder: expected \"little\", found \"bigbig\"",
        ),
        ("script.pt", "found a TorchScript archive"),
        (
            "no-storage.bin",
            "tensor w: expected its storage in the file, found no storage \"9\"",
        ),
        ("not-utf8.bin", "expected a text in UTF-8"),
        ("nested.bin", "at most 16 dicts in dicts"),
        ("circular.bin", "at most as many values as bytes"),
        ("number.bin", "expected a dict of tensors"),
    ] {
        let error = fuzzing::tensors(&fixture(file))
            .expect_err(file)
            .to_string();
        assert!(error.contains(reason), "{error}, expected {reason}");
        let audit = audit(&fixture(file), &AuditOptions::default()).unwrap();
        assert_eq!(
            (audit.adapters.len(), audit.refused.len()),
            (0, 1),
            "{file}"
        );
        assert_eq!(audit.refused[0].reason, error);
    }
    assert!(!mark.exists(), "a pickle ran");
}

/// Every prefix of an archive and of a sequence is refused: nothing of a file that is cut off counts.
#[test]
fn files_that_are_cut_off_are_refused() {
    for file in [
        "plain.bin",
        "plain-sequence.pt",
        "views.pth",
        "views-sequence.pt",
    ] {
        let whole = fs::read(fixture(file)).unwrap();
        assert!(fuzzing::container(whole.clone()).unwrap() > 1, "{file}");
        for length in 0..whole.len() {
            let result = fuzzing::container(whole[..length].to_vec());
            assert!(result.is_err(), "{file} cut to {length} bytes");
        }
    }
}

/// A safetensors header of 640 bytes begins with the two bytes of a pickle.
#[test]
fn a_header_that_begins_like_a_pickle_is_a_header() {
    let entry = r#"{"w":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}"#;
    let mut file = 640_u64.to_le_bytes().to_vec();
    assert!(file.starts_with(b"\x80\x02"));
    file.extend(format!("{entry:640}").bytes());
    file.extend([0x38, 0xb8]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    fs::write(&path, file).unwrap();
    let tensor = fuzzing::tensors(&path).unwrap().remove(0);
    assert_eq!(
        (tensor.name.as_str(), tensor.dtype.as_str()),
        ("w", "F8_E4M3")
    );
    assert_eq!((tensor.shape, tensor.values), (vec![2], vec![1.0, -1.0]));
}

/// Real differences of the same weights out of either container.
#[test]
fn a_pytorch_checkpoint_is_compared_like_a_safetensors_one() {
    let folder = tempfile::tempdir().unwrap();
    let (base, tuned) = (folder.path().join("base"), folder.path().join("tuned"));
    for path in [&base, &tuned] {
        fs::create_dir(path).unwrap();
    }
    fs::copy(fixture("plain-sequence.pt"), base.join("pytorch_model.bin")).unwrap();
    // The same two matrices, each in a shard of its own.
    let tensors = fuzzing::tensors(&fixture("plain.bin")).unwrap();
    let mut map = serde_json::Map::new();
    for Tensor {
        name,
        shape,
        values,
        ..
    } in &tensors
    {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|&v| (v as f32 + 1.0).to_le_bytes())
            .collect();
        let shard = format!("{name}.safetensors");
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), &bytes);
        safetensors::serialize_to_file([(name, view.unwrap())], None, &tuned.join(&shard)).unwrap();
        map.insert(name.clone(), shard.into());
    }
    let index = serde_json::json!({ "weight_map": map });
    fs::write(
        tuned.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    let audit = audit_pair(&base, &tuned, &PairOptions::default(), |_, _| {}).unwrap();
    assert_eq!((audit.matrices.len(), audit.unmatched.len()), (2, 0));
    for change in &audit.matrices {
        // All ones, to float32's rounding of numbers below four.
        let [rows, columns] = change.shape;
        let first = ((rows * columns) as f64).sqrt();
        assert!((change.singular_values[0] - first).abs() < 4.0 * f64::from(f32::EPSILON) * first);
        assert_eq!(change.rank_above_noise, 1, "{}", change.name);
    }
}

/// The two factors in two files under one index: the same audit as of both in one.
#[test]
fn a_sharded_adapter_is_audited_like_a_whole_one() {
    let tensors = pair();
    let config = serde_json::json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 4 });
    let whole = folder(&tensors, Some(config.clone()));
    let shards = tempfile::tempdir().unwrap();
    let mut map = serde_json::Map::new();
    for (number, tensor) in tensors.iter().enumerate() {
        let name = format!("adapter_model-0000{}-of-00002.safetensors", number + 1);
        fs::write(shards.path().join(&name), bytes(&vec![tensor.clone()])).unwrap();
        map.insert(tensor.0.to_owned(), name.into());
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    let name = "adapter_model.safetensors.index.json";
    fs::write(shards.path().join(name), index.to_string()).unwrap();
    let of_config = shards.path().join("adapter_config.json");
    fs::write(of_config, config.to_string()).unwrap();
    let [whole, shards] = [whole, shards].map(|folder| {
        let audit = audited(folder.path());
        assert_eq!(
            (audit.adapters.len(), audit.refused.len()),
            (1, 0),
            "{:?}",
            audit.refused
        );
        assert_eq!(audit.adapters[0].path, folder.path().display().to_string());
        audit.adapters[0].modules.clone()
    });
    let spectrum = whole[0].spectrum.as_ref().unwrap();
    assert_eq!(spectrum.singular_values, [4.0, 2.0]);
    assert_eq!(shards, whole);
}

#[test]
fn indices_that_lead_astray_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    fs::create_dir(&home).unwrap();
    let index = home.join("adapter_model.safetensors.index.json");
    let refusal = |text: &str| {
        fs::write(&index, text).unwrap();
        fuzzing::tensors(&index).expect_err(text).to_string()
    };
    fs::copy(fixture("plain.bin"), home.join("one.bin")).unwrap();
    fs::copy(fixture("views.pth"), home.join("two.bin")).unwrap();
    fs::copy(fixture("plain.bin"), folder.path().join("outside.bin")).unwrap();
    let of = |tensor: &str, file: &str| format!(r#"{{"weight_map":{{"{tensor}":"{file}"}}}}"#);
    for (text, reason) in [
        (String::new(), "a weight_map of files"),
        ("[]".to_owned(), "a weight_map of files"),
        (
            r#"{"weight_map":{}}"#.to_owned(),
            "expected 1 to 512 files, found 0",
        ),
        (
            of("w", "../outside.bin"),
            "without a folder, found \"../outside.bin\"",
        ),
        (of("w", "/etc/passwd"), "without a folder"),
        (of("w", "..\\\\outside.bin"), "without a folder"),
        (of("w", ""), "without a folder"),
        (of("w", "."), "without a folder"),
        (
            of("w", "adapter_model.safetensors.index.json"),
            "expected weight files",
        ),
        (of("w", "three.bin"), "three.bin: open failed"),
        (
            of("w", "one.bin"),
            "tensor w: expected in one.bin, found in none",
        ),
        (
            r#"{"weight_map":{"q.lora_A.weight":"one.bin","block":"one.bin","cube":"two.bin"}}"#
                .to_owned(),
            "tensor block: expected in one.bin, found in two.bin",
        ),
    ] {
        let found = refusal(&text);
        assert!(found.contains(reason), "{found}, expected {reason}");
    }
    // Two shards with the same tensors.
    fs::copy(fixture("plain.bin"), home.join("three.bin")).unwrap();
    let twice = r#"{"weight_map":{"q.lora_A.weight":"one.bin","q.lora_B.weight":"three.bin"}}"#;
    assert!(refusal(twice).contains("expected in one file only, found also in"));

    std::os::unix::fs::symlink(folder.path().join("outside.bin"), home.join("link.bin")).unwrap();
    let found = refusal(&of("q.lora_A.weight", "link.bin"));
    assert!(found.contains("shard link.bin: expected a file in the index's folder or its Hub cache, found a link to"), "{found}");

    // The Hub's cache: links from a snapshot to the store of files beside it.
    let (snapshot, blobs) = (
        folder.path().join("snapshots/0a1b/sub"),
        folder.path().join("blobs"),
    );
    for path in [&snapshot, &blobs] {
        fs::create_dir_all(path).unwrap();
    }
    fs::copy(fixture("plain.bin"), blobs.join("00ff")).unwrap();
    std::os::unix::fs::symlink("../../../blobs/00ff", snapshot.join("one.bin")).unwrap();
    let index = snapshot.join("pytorch_model.bin.index.json");
    fs::write(&index, of("q.lora_A.weight", "one.bin")).unwrap();
    assert_eq!(fuzzing::tensors(&index).unwrap().len(), 2);
}

/// Pickles of one-byte opcodes whose values would take many times the file.
#[test]
fn pickles_cannot_blow_up() {
    let blown = |opcodes: &[u8], count: usize| {
        let mut pickle = b"\x80\x02".to_vec();
        pickle.extend(opcodes.repeat(count));
        pickle.push(b'.');
        fuzzing::container(pickle).unwrap_err().to_string()
    };
    let most = "expected values that take at most 67108864 bytes, found more";
    for opcodes in [
        &b"N"[..],
        b"}",
        b"]",
        b"(",
        b"N\x94",
        b"NNN\x870",
        b"}q\0NNs0",
    ] {
        let found = blown(opcodes, 10_000_000 / opcodes.len());
        assert!(found.contains(most), "{opcodes:?}: {found}");
    }
    // Nested as deep as the file is long: nothing recurses.
    assert!(blown(b")\x85", 1_000_000).contains("a pickle of something else"));
    let lie = fuzzing::container(b"\x80\x02X\xff\xff\xff\xffabc".to_vec());
    let found = lie.unwrap_err().to_string();
    assert!(
        found.contains("expected 4294967295 bytes more, found 3"),
        "{found}"
    );
    let memo = fuzzing::container(b"\x80\x02Nr\xff\xff\xff\x7f.".to_vec());
    let found = memo.unwrap_err().to_string();
    assert!(
        found.contains("expected a memo number up to 8, found 2147483647"),
        "{found}"
    );
}

/// A header of 10⁵ tensors is read and sorted out; the time that it took is printed.
#[test]
fn very_many_tensors_are_no_burden() {
    let count = 100_000;
    let entry = |i| {
        format!(
            r#""layers.{i}.w":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}"#,
            4 * i,
            4 * i + 4
        )
    };
    let header = format!(
        "{{{}}}",
        (0..count).map(entry).collect::<Vec<_>>().join(",")
    );
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.resize(file.len() + 4 * count, 0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.safetensors");
    fs::write(&path, file).unwrap();
    let begin = Instant::now();
    let audit = audit(&path, &AuditOptions::default()).unwrap();
    println!("{count} tensors: {:?}", begin.elapsed());
    assert!(audit.refused[0].reason.contains("no tensor is part of one"));
}

/// Someone else's file, where there is one: its numbers' sum and the sum of their squares, from
/// PyTorch and exact summation.
#[test]
fn a_real_state_dict_is_read_whole() {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = std::env::var_os("RANKWISE_SHARED").map_or_else(beside, PathBuf::from);
    let file = shared.join("data/adapters/roberta-base-mnli-loralib/roberta_base_lora_mnli.bin");
    if !file.is_file() {
        eprintln!("skipped: no file {}", file.display());
        return;
    }
    let tensors = fuzzing::tensors(&file).unwrap();
    assert_eq!(tensors.len(), 52);
    let values: Vec<f64> = tensors
        .into_iter()
        .flat_map(|tensor| tensor.values)
        .collect();
    assert_eq!(values.len(), 887_811);
    // Sums of float32 numbers in double precision: what is lost is below 10⁻⁹ of their sizes.
    assert!((values.iter().sum::<f64>() - 23.370_166_575_428).abs() < 1e-9);
    assert!((values.iter().map(|v| v * v).sum::<f64>() - 800.300_739_136_390).abs() < 1e-9);
}
