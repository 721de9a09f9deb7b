//! What cannot be audited is refused by name and with a reason, and no file makes the audit panic.

mod support;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rankwise_analysis::{AuditOptions, audit};
use safetensors::Dtype;
use serde_json::{Value, json};
use support::{A, B, Tensors, audited, bytes, folder, pair, tensor};

/// The reason for the only refusal, where nothing was audited.
fn refusal(tensors: &Tensors, config: Value) -> String {
    let folder = folder(tensors, Some(config));
    let audit = audited(folder.path());
    assert_eq!(
        (audit.adapters.len(), audit.refused.len()),
        (0, 1),
        "{:?}",
        audit.refused
    );
    audit.refused[0].reason.clone()
}

#[test]
fn what_cannot_be_audited_is_refused_by_name() {
    let alpha = || json!({ "lora_alpha": 2 });
    let with = |name, shape: &[usize]| {
        let mut tensors = pair();
        tensors.extend(tensor(name, shape, &vec![1.0; shape.iter().product()]));
        tensors
    };
    let magnitude = with("base_model.model.q.lora_magnitude_vector", &[2]);
    let kind = |finding: &rankwise_analysis::Finding| finding.kind.name();
    let dora = audited(folder(&magnitude, Some(alpha())).path());
    assert_eq!(
        dora.adapters[0].findings.iter().map(kind).next(),
        Some("directional")
    );
    assert!(refusal(&pair(), json!({ "lora_alpha": 2, "use_dora": true })).starts_with("DoRA"));
    let variant = with("base_model.model.q.lora_diag", &[2]);
    assert!(refusal(&variant, alpha()).starts_with("KaSA"));
    let adalora = tensor("base_model.model.q.lora_A", &[1, 2], &[1.0; 2]);
    assert!(refusal(&adalora, alpha()).contains("without factor B"));
    assert!(refusal(&pair(), json!({ "peft_type": "BOFT" })).starts_with("peft_type BOFT"));
    assert!(refusal(&tensor(A, &[1, 2], &[1.0; 2]), alpha()).contains("without factor B"));
    assert!(refusal(&tensor(B, &[2, 1], &[1.0; 2]), alpha()).contains("without factor A"));
    let expression = json!({ "lora_alpha": 2, "alpha_pattern": { "(?=q)k": 3 } });
    assert!(refusal(&pair(), expression).contains("regular expression"));
    let text = json!({ "lora_alpha": 2, "alpha_pattern": { "q": "3" } });
    assert!(refusal(&pair(), text).contains("expected a number"));
    let experts = json!({ "lora_alpha": 2, "target_parameters": ["q.gate"] });
    assert!(refusal(&pair(), experts).contains("expected r in adapter_config.json"));
    assert!(refusal(&Vec::new(), alpha()).contains("no tensors"));

    let mut unequal = tensor(A, &[2, 3], &[1.0; 6]);
    unequal.extend(tensor(B, &[2, 3], &[1.0; 6]));
    assert!(refusal(&unequal, alpha()).contains("found [2, 3] and [2, 3]"));
    // A convolution's groups each have R/2 directions; three outputs are no two groups of equal size.
    let mut groups = tensor(A, &[4, 1, 1, 1], &[1.0; 4]);
    groups.extend(tensor(B, &[3, 2, 1, 1], &[1.0; 6]));
    assert!(refusal(&groups, alpha()).contains("found [4, 1, 1, 1]"));
    let integers = vec![
        (A, Dtype::I16, vec![1, 2], vec![1; 4]),
        (B, Dtype::I16, vec![1, 1], vec![1; 2]),
    ];
    assert!(refusal(&integers, alpha()).contains("found I16"));

    let second = with("base_model.model.q.lora_A.other.weight", &[1, 3]);
    let folder = folder(&second, Some(alpha()));
    let audit = audited(folder.path());
    assert_eq!(
        (audit.adapters.len(), audit.refused[0].name.as_str()),
        (1, "q (other)")
    );
}

/// A file called `name` in a folder of its own; its refusal's reason.
fn file_refusal(name: &str, content: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), content).unwrap();
    let audit = audited(folder.path());
    assert_eq!(
        (audit.adapters.len(), audit.refused.len()),
        (0, 1),
        "{:?}",
        audit.refused
    );
    audit.refused[0].reason.clone()
}

#[test]
fn files_of_other_kinds_are_refused() {
    let name = "adapter_model.safetensors";
    for (content, reason) in [
        (&b""[..], "an empty file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
            "a git-lfs pointer",
        ),
        (
            b"PK\x03\x04 and so on",
            "zip archive: expected an end record",
        ),
        (b"\x80\x02}q\x00.", "a pickle"),
        (b"GGUF\x03\0\0\0 and so on", "a GGUF file"),
        (b"\x89HDF\r\n\x1a\n and so on", "an HDF5 file"),
        (b"\x93NUMPY\x01\0", "a NumPy array"),
        (b"\n <!DOCTYPE html>\n<html>", "an HTML page"),
        (b"<HTML><body>404</body>", "an HTML page"),
        (b"<?xml version=\"1.0\"?><Error>", "an XML text"),
        (b"Entry not found", "found a text"),
        (b"\x01\x02\x03", "found 3 bytes"),
        (
            &u64::MAX.to_le_bytes(),
            "header length: expected at most 0 bytes",
        ),
        (b"\x02\0\0\0\0\0\0\0[]", "expected an object of tensors"),
        (b"\x02\0\0\0\0\0\0\0{}", "no adapter"),
    ] {
        let found = file_refusal(name, content);
        assert!(found.contains(reason), "{found}, expected {reason}");
    }
    assert!(file_refusal("model.bin", b"PK\x03\x04").contains("zip archive"));
    // As the safetensors library writes a file without tensors.
    assert!(file_refusal(name, &with_header(&format!("{:32}", "{}"), 0)).contains("no adapter"));
    let weights = bytes(&tensor("layer.weight", &[1], &[1.0]));
    assert!(file_refusal("model.safetensors", &weights).contains("no tensor is part of one"));
    assert!(file_refusal("adapter_config.json", b"{}").contains("open failed"));
    assert!(file_refusal("notes.txt", b"").contains("no weight file"));
    assert!(audit(Path::new("/nowhere/at/all"), &AuditOptions::default()).is_err());
}

#[test]
fn names_that_are_not_utf8_are_refused() {
    let mut header = br#"{"x":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#.to_vec();
    header[2] = 0xff;
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &[0; 4]].concat();
    let found = file_refusal("adapter_model.safetensors", &file);
    assert!(found.contains("invalid unicode code point"), "{found}");
}

/// A file with this header and so many bytes of data.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

#[test]
fn headers_that_lie_are_refused_with_the_tensor_named() {
    let entry = |shape: &str, offsets: &str| {
        format!(r#""x.lora_A.weight":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let one = |shape, offsets| format!("{{{}}}", entry(shape, offsets));
    let twice = format!("{{{},{}}}", entry("[1]", "[0,4]"), entry("[1]", "[4,8]"));
    let named = |json: String| json.replace("x.lora_A", "y.lora_A");
    let overlap = format!(
        "{{{},{}}}",
        entry("[2]", "[0,8]"),
        named(entry("[1]", "[4,8]"))
    );
    for (header, data, reason) in [
        (
            one("[2]", "[0,4]"),
            4,
            "expected the bytes of F32 [2], found 4 bytes",
        ),
        (
            one("[1]", "[0,4]"),
            3,
            "inside the 3 bytes of data, found 0..4",
        ),
        (one("[1]", "[4,0]"), 4, "found 4..0"),
        (
            one("[1]", "[4,8]"),
            8,
            "begin of tensor x.lora_A.weight: expected byte 0",
        ),
        (one("[1]", "[0,4]"), 9, "data: expected 4 bytes"),
        (one("[1,-1]", "[0,4]"), 4, "x.lora_A.weight: invalid value"),
        (
            one("[4294967296,4294967296]", "[0,0]"),
            0,
            "expected the bytes of F32",
        ),
        (
            one("[0,4294967296,4294967296]", "[0,0]"),
            0,
            "expected the bytes of F32",
        ),
        (
            one("[1]", "[0,18446744073709551615]"),
            4,
            "found 0..18446744073709551615",
        ),
        (
            one("[1]", "[0,4]").replace("F32", "F31"),
            4,
            "x.lora_A.weight: unknown variant",
        ),
        (twice, 8, "expected one tensor of this name, found two"),
        (overlap, 8, "begin of tensor y.lora_A.weight"),
        ("{".repeat(1000), 0, "header: expected JSON"),
        (
            one(&format!("[{}1]", "1,".repeat(64)), "[0,4]"),
            4,
            "a list of at most 64 dimensions",
        ),
        (
            r#"{"__metadata__":{"format":1}}"#.to_owned(),
            0,
            "__metadata__: invalid type: integer `1`, expected a text",
        ),
    ] {
        let found = file_refusal("adapter_model.safetensors", &with_header(&header, data));
        assert!(
            found.contains(reason),
            "{header}: {found}, expected {reason}"
        );
    }
}

#[test]
fn a_configuration_of_another_form_is_refused() {
    for text in [
        "",
        "[]",
        "{\"lora_alpha\": \"2\"}",
        "{\"lora_alpha\": 1e999}",
        "\u{0}",
    ] {
        let folder = folder(&pair(), None);
        fs::write(folder.path().join("adapter_config.json"), text).unwrap();
        let audit = audited(folder.path());
        assert_eq!(
            (audit.adapters.len(), audit.refused.len()),
            (0, 1),
            "{text}"
        );
        assert!(
            audit.refused[0].reason.contains("adapter_config.json"),
            "{text}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any damage gives an audit or a refusal, not a panic.
    #[test]
    fn damaged_files_are_audited_or_refused(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut file = bytes(&pair());
        for (place, byte) in changes {
            let place = place.index(file.len());
            file[place] = byte;
        }
        if is_cut {
            file.truncate(length.index(file.len()));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter_model.safetensors");
        fs::write(&path, file).unwrap();
        let audit = audited(&path);
        prop_assert!(!audit.adapters.is_empty() || !audit.refused.is_empty());
    }
}

/// Empty tensors cost a file nothing, whatever their sides are; and thin factors can stand for much.
#[test]
fn what_is_out_of_proportion_is_refused() {
    let named = |tensors: &[(&'static str, &[usize])]| -> Tensors<'static> {
        let all = tensors
            .iter()
            .flat_map(|(name, shape)| tensor(name, shape, &vec![1.0; shape.iter().product()]));
        all.collect()
    };
    let config = json!({ "r": 1, "lora_alpha": 2, "target_parameters": ["q.gate_up_proj"] });
    let empty = named(&[(A, &[1 << 40, 0]), (B, &[0, 1 << 40])]);
    assert!(refusal(&empty, config.clone()).contains("expected at most 2147483648 rows"));
    let empty = named(&[(A, &[1 << 30, 0]), (B, &[0, 1 << 30])]);
    assert!(refusal(&empty, config.clone()).contains("holds no numbers"));
    let many = named(&[(A, &[5000, 1]), (B, &[1, 5000])]);
    let reason = refusal(&many, config);
    assert!(reason.contains("expected at most 4096 experts"), "{reason}");
    let alpha = || json!({ "lora_alpha": 2 });
    let none = named(&[(A, &[1 << 30, 0]), (B, &[0, 1 << 30])]);
    assert!(refusal(&none, alpha()).contains("holds no numbers"));
    let groups = named(&[(A, &[1 << 30, 0, 1]), (B, &[0, 1, 1])]);
    assert!(refusal(&groups, alpha()).contains("holds no numbers"));
    // 2,000 inputs with a window of 2,000 places.
    let tucker = named(&[
        ("lora_unet_q.lora_down.weight", &[1, 2000, 1, 1]),
        ("lora_unet_q.lora_mid.weight", &[1, 1, 1, 2000]),
        ("lora_unet_q.lora_up.weight", &[1, 1, 1, 1]),
    ]);
    let reason = refusal(&tucker, json!({}));
    assert!(
        reason.starts_with("a Tucker core: expected an update of at most 128032 numbers"),
        "{reason}"
    );
    assert!(reason.ends_with("found 4000000"), "{reason}");
}

/// They belong to all adapters, so one of them is an error and not a refusal of every adapter.
#[test]
fn a_base_or_an_initial_adapter_that_is_none_is_an_error() {
    let folder = folder(&pair(), None);
    let other = folder.path().join("model.safetensors");
    fs::write(&other, bytes(&tensor("q.weight", &[2, 3], &[0.0; 6]))).unwrap();
    let said = |base: Option<&Path>, initial: Option<&Path>| {
        let options = AuditOptions {
            base: base.map(Path::to_path_buf),
            initial: initial.map(Path::to_path_buf),
            ..AuditOptions::default()
        };
        let path = folder.path().join("adapter_model.safetensors");
        audit(&path, &options).unwrap_err().to_string()
    };
    let nowhere = folder.path().join("nowhere");
    assert!(said(Some(&nowhere), None).contains("nowhere"));
    assert!(said(None, Some(&nowhere)).contains("nowhere"));
    let message = said(None, Some(&other));
    assert!(
        message.ends_with("initial adapter: expected an adapter, found none"),
        "{message}"
    );
}

#[test]
fn a_scale_that_is_no_number_is_refused() {
    let layouts = [
        ["lora_unet_q.lora_down.weight", "lora_unet_q.lora_up.weight"],
        ["lora_unet_q.lokr_w1", "lora_unet_q.lokr_w2_a"],
    ];
    for alpha in [f32::NAN, f32::INFINITY] {
        for [first, second] in layouts {
            let mut tensors = tensor(first, &[1, 2], &[1.0; 2]);
            tensors.extend(tensor(second, &[2, 1], &[1.0; 2]));
            tensors.extend(tensor("lora_unet_q.alpha", &[], &[alpha]));
            if second.ends_with("w2_a") {
                tensors.extend(tensor("lora_unet_q.lokr_w2_b", &[1, 2], &[1.0; 2]));
            }
            let reason = refusal(&tensors, json!({}));
            assert!(
                reason.contains("scale: expected a finite number"),
                "{reason}"
            );
        }
    }
}

/// Numbers that are finite, and a product of them that is not.
#[test]
fn an_overflow_leaves_no_spectrum() {
    let whole = |name| {
        let bytes = 1e300_f64.to_le_bytes().to_vec();
        (name, Dtype::F64, vec![1, 1], bytes)
    };
    let tensors = vec![whole("lora_unet_q.lokr_w1"), whole("lora_unet_q.lokr_w2")];
    let audit = audited(folder(&tensors, None).path());
    assert!(audit.adapters[0].modules[0].spectrum.is_none());
    assert_eq!(audit.adapters[0].findings[0].kind.name(), "non_finite");
}

/// One row of very many numbers: no square of so many is made.
#[test]
fn factors_may_be_wider_than_they_are_long() {
    const R: usize = 200_000;
    let mut tensors = tensor(A, &[R, 1], &vec![1.0; R]);
    tensors.extend(tensor(B, &[1, R], &vec![2.0; R]));
    let audit = audited(folder(&tensors, Some(json!({ "lora_alpha": R }))).path());
    let spectrum = audit.adapters[0].modules[0].spectrum.as_ref().unwrap();
    let error = spectrum.singular_values[0] / (2.0 * R as f64) - 1.0;
    // The sum of R products, each rounded.
    assert!(error.abs() <= R as f64 * f64::EPSILON, "{error}");
}
