//! Adapters merged into their base models: small numbers that can be checked by hand, every kind of
//! tensor that an adapter changes, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use rankwise_analysis::{
    Checkpoint, Error, Merge, MergeOptions, Merged, NewType, TensorMerge, merge,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use support::{Tensors, bytes, tensor};
use tempfile::TempDir;

mod support;

/// A base model and an adapter in one folder, and room for what is merged.
struct Pair(TempDir);

impl Pair {
    fn new(base: &Tensors, adapter: &Tensors, config: Value) -> Self {
        let pair = Self(tempfile::tempdir().unwrap());
        for name in ["base", "adapter"] {
            fs::create_dir(pair.0.path().join(name)).unwrap();
        }
        pair.write("base/model.safetensors", &bytes(base));
        pair.write("adapter/adapter_model.safetensors", &bytes(adapter));
        pair.write("adapter/adapter_config.json", config.to_string().as_bytes());
        pair
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn merge_with(&self, options: &MergeOptions) -> Result<Merged, Error> {
        let [base, adapter, out] = ["base", "adapter", "out"].map(|name| self.path(name));
        merge(&base, &adapter, &out, options, |_, _| {})
    }

    fn merge(&self) -> Merged {
        self.merge_with(&MergeOptions::default()).unwrap()
    }

    /// What is wrong with the pair; nothing may be left behind.
    fn refused(&self) -> String {
        let error = self.merge_with(&MergeOptions::default()).unwrap_err();
        assert!(!self.path("out").exists());
        error.to_string()
    }

    fn read(&self, name: &str) -> Vec<f32> {
        Checkpoint::open(&self.path("out"))
            .unwrap()
            .read(name)
            .unwrap()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path("out").join(name)).unwrap()).unwrap()
    }
}

fn lora(extra: Value) -> Value {
    let mut config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 2});
    let (Value::Object(fields), Value::Object(more)) = (&mut config, extra) else {
        panic!("expected objects");
    };
    fields.extend(more);
    config
}

/// B A = [[3, 5], [0, 0]] of module `module`, s = 2.
fn factors(module: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    vec![
        (
            format!("base_model.model.{module}.lora_A.weight"),
            vec![1, 2],
            vec![3.0, 5.0],
        ),
        (
            format!("base_model.model.{module}.lora_B.weight"),
            vec![2, 1],
            vec![1.0, 0.0],
        ),
    ]
}

fn all(tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Tensors<'_> {
    tensors
        .iter()
        .flat_map(|(name, shape, values)| tensor(name, shape, values))
        .collect()
}

fn base(names: &[&str]) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let weight = |name: &&str| ((*name).to_owned(), vec![2, 2], vec![1.0, 2.0, 3.0, 4.0]);
    names.iter().map(weight).collect()
}

fn of<'a>(merged: &'a Merged, name: &str) -> &'a TensorMerge {
    let mut found = merged.tensors.iter().filter(|tensor| tensor.name == name);
    found
        .next()
        .unwrap_or_else(|| panic!("no {name} in {merged:?}"))
}

#[test]
fn an_update_is_added_and_the_rest_copied() {
    let mut weights = all(&[]);
    let owned = base(&["q.weight", "other.weight"]);
    weights.extend(all(&owned));
    weights.push(("ids", Dtype::I64, vec![1, 2], (0..16).collect()));
    weights.extend(tensor("q.bias", &[2], &[10.0, 20.0]));
    let adapter = factors("q");
    let pair = Pair::new(&weights, &all(&adapter), lora(json!({})));
    pair.write("base/config.json", b"{\"model_type\":\"x\"}");
    pair.write("base/vocab.txt", b"a\nb\n");
    pair.write("base/optimizer.pt", b"no part of a model");
    let merged = pair.merge();
    // W = [[1, 2], [3, 4]], s B A = [[6, 10], [0, 0]].
    assert_eq!(pair.read("q.weight"), [7.0, 12.0, 3.0, 4.0]);
    assert_eq!(pair.read("q.bias"), [10.0, 20.0]);
    let record = of(&merged, "q.weight");
    assert_eq!(
        (record.merge, record.rank, record.scale),
        (Merge::Merged, Some(1), Some(2.0))
    );
    for (norm, squared) in [(record.weight_norm, 30.0), (record.change_norm, 136.0)] {
        // A square, a root and a factor round.
        assert!(
            (norm.unwrap().powi(2) / squared - 1.0_f64).abs() < 1e-14,
            "{norm:?}"
        );
    }
    assert_eq!((merged.copied, merged.tensors.len()), (3, 1));
    // Byte for byte, whatever the type.
    let file = fs::read(pair.path("out/model.safetensors")).unwrap();
    let read = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(
        read.tensor("ids").unwrap().data(),
        (0..16).collect::<Vec<u8>>()
    );
    let (_, header) = SafeTensors::read_metadata(&file).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    assert_eq!(merged.companions, ["config.json", "vocab.txt"]);
    assert_eq!(
        fs::read(pair.path("out/config.json")).unwrap(),
        b"{\"model_type\":\"x\"}"
    );
    assert_eq!(
        serde_json::to_value(&merged).unwrap(),
        pair.json("merge.json")
    );
    // What is there stays.
    let again = pair
        .merge_with(&MergeOptions::default())
        .unwrap_err()
        .to_string();
    assert!(again.contains("something in it"), "{again}");
}

/// GPT-2 keeps a square weight as inputs × outputs: only the configuration tells.
#[test]
fn orientations_are_the_bases() {
    let (weights, adapter) = (base(&["h.c_proj.weight"]), factors("h.c_proj"));
    let config = lora(json!({"fan_in_fan_out": true}));
    let pair = Pair::new(&all(&weights), &all(&adapter), config);
    pair.merge();
    assert_eq!(pair.read("h.c_proj.weight"), [7.0, 2.0, 13.0, 4.0]);

    // A table of 3 entries of dimension 2: ΔW = s (B A)ᵀ.
    let table = tensor("wte.weight", &[3, 2], &[0.0; 6]);
    let mut adapter = tensor("wte.lora_embedding_A", &[1, 3], &[1.0, 2.0, 3.0]);
    adapter.extend(tensor("wte.lora_embedding_B", &[2, 1], &[1.0, 10.0]));
    let pair = Pair::new(&table, &adapter, lora(json!({})));
    pair.write("base/config.json", b"{}");
    let merged = pair.merge();
    assert_eq!(pair.read("wte.weight"), [2.0, 20.0, 4.0, 40.0, 6.0, 60.0]);
    assert!(
        merged.notes.iter().any(|note| note.contains("ties")),
        "{merged:?}"
    );

    // A kernel of 2 outputs, 1 input and a window of 1 x 2.
    let kernel = tensor("patch.weight", &[2, 1, 1, 2], &[0.0; 4]);
    let mut adapter = tensor("patch.lora_A.weight", &[1, 1, 1, 2], &[1.0, 2.0]);
    adapter.extend(tensor("patch.lora_B.weight", &[2, 1, 1, 1], &[1.0, 10.0]));
    let pair = Pair::new(&kernel, &adapter, lora(json!({})));
    let merged = pair.merge();
    assert_eq!(pair.read("patch.weight"), [2.0, 4.0, 20.0, 40.0]);
    assert_eq!(merged.tensors[0].shape, [2, 1, 1, 2]);
}

#[test]
fn biases_and_rows_and_multipliers() {
    let mut owned = base(&["q.weight", "v.weight"]);
    for bias in ["q.bias", "v.bias", "LayerNorm.beta"] {
        owned.push((bias.to_owned(), vec![2], vec![10.0, 20.0]));
    }
    let mut adapter = factors("q");
    adapter.extend(factors("v"));
    for (name, values) in [
        ("q.lora_B.bias", [1.0, 2.0]),
        ("v.base_layer.bias", [7.0, 8.0]),
        ("LayerNorm.bias", [5.0, 6.0]),
    ] {
        adapter.push((format!("base_model.model.{name}"), vec![2], values.to_vec()));
    }
    let pair = Pair::new(&all(&owned), &all(&adapter), lora(json!({"bias": "all"})));
    let merged = pair.merge();
    assert_eq!(pair.read("q.bias"), [12.0, 24.0]);
    assert_eq!(pair.read("v.bias"), [7.0, 8.0]);
    assert_eq!(pair.read("LayerNorm.beta"), [5.0, 6.0]);
    assert_eq!(of(&merged, "q.bias").merge, Merge::Shifted);
    assert_eq!(of(&merged, "v.bias").merge, Merge::Replaced);

    // (IA)³: outputs, and with them the bias; inputs, and not.
    let mut adapter = tensor("base_model.model.q.ia3_l", &[2, 1], &[2.0, 3.0]);
    adapter.extend(tensor("base_model.model.v.ia3_l", &[1, 2], &[2.0, 3.0]));
    let config = json!({"peft_type": "IA3", "feedforward_modules": ["v"]});
    let pair = Pair::new(&all(&owned), &adapter, config);
    let merged = pair.merge();
    assert_eq!(pair.read("q.weight"), [2.0, 4.0, 9.0, 12.0]);
    assert_eq!(pair.read("q.bias"), [20.0, 60.0]);
    assert_eq!(pair.read("v.weight"), [2.0, 6.0, 6.0, 12.0]);
    assert_eq!(pair.read("v.bias"), [10.0, 20.0]);
    assert_eq!(of(&merged, "q.bias").merge, Merge::Scaled);

    // Two rows of a table.
    let table = tensor("embed.weight", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let name = "base_model.model.embed.token_adapter.trainable_tokens_delta";
    let adapter = tensor(name, &[2, 2], &[7.0, 8.0, 9.0, 0.5]);
    let config = json!({"peft_type": "TRAINABLE_TOKENS", "token_indices": [2, 0]});
    let pair = Pair::new(&table, &adapter, config);
    let merged = pair.merge();
    assert_eq!(pair.read("embed.weight"), [9.0, 0.5, 3.0, 4.0, 7.0, 8.0]);
    assert_eq!(merged.tensors[0].merge, Merge::Rows);
}

/// A bare encoder gets a head: its names get the prefix that the adapter's have.
#[test]
fn a_head_is_added_to_a_bare_model_in_shards() {
    let mut adapter = factors("bert.encoder.q");
    let head = [
        ("classifier.weight", vec![3, 2], vec![1.0; 6]),
        ("classifier.bias", vec![3], vec![1.0; 3]),
    ];
    for (name, shape, values) in head {
        adapter.push((format!("base_model.model.{name}"), shape, values));
    }
    let config = lora(json!({"modules_to_save": ["classifier", "score"]}));
    let pair = Pair::new(&all(&[]), &all(&adapter), config);
    fs::remove_file(pair.path("base/model.safetensors")).unwrap();
    for (shard, name) in [("a", "encoder.q.weight"), ("b", "encoder.k.weight")] {
        pair.write(
            &format!("base/model-{shard}.safetensors"),
            &bytes(&all(&base(&[name]))),
        );
    }
    let index = json!({"weight_map": {
        "encoder.q.weight": "model-a.safetensors",
        "encoder.k.weight": "model-b.safetensors",
    }});
    pair.write(
        "base/model.safetensors.index.json",
        index.to_string().as_bytes(),
    );
    let config = json!({"id2label": {"0": "no", "1": "yes"}, "num_labels": 2, "hidden_size": 2});
    pair.write("base/config.json", config.to_string().as_bytes());
    let merged = pair.merge();
    assert_eq!(pair.read("bert.encoder.q.weight"), [7.0, 12.0, 3.0, 4.0]);
    assert_eq!(pair.read("bert.encoder.k.weight"), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(pair.read("classifier.weight"), [1.0; 6]);
    assert_eq!(of(&merged, "classifier.bias").merge, Merge::Added);
    let index = pair.json("model.safetensors.index.json");
    let map = json!({
        "bert.encoder.q.weight": "model-a.safetensors",
        "bert.encoder.k.weight": "model-b.safetensors",
        "classifier.weight": "model-b.safetensors",
        "classifier.bias": "model-b.safetensors",
    });
    assert_eq!(index["weight_map"], map);
    assert_eq!(
        index["metadata"],
        json!({"total_parameters": 17, "total_size": 68})
    );
    let config = pair.json("config.json");
    assert_eq!(config["id2label"]["2"], "LABEL_2");
    assert_eq!(config["label2id"]["LABEL_1"], 1);
    assert!(config.get("num_labels").is_none() && config["hidden_size"] == 2);
    assert!(
        merged.notes.iter().any(|note| note.contains("bert.")),
        "{merged:?}"
    );
}

/// W and ΔW are exact, and their sum is rounded once.
#[test]
fn types_are_the_bases_or_the_one_asked_for() {
    let one = half::bf16::ONE.to_le_bytes();
    let weights = vec![("q.weight", Dtype::BF16, vec![1, 1], one.to_vec())];
    let mut adapter = tensor(
        "q.lora_A.weight",
        &[1, 1],
        &[2_f32.powi(-9) + 2_f32.powi(-20)],
    );
    adapter.extend(tensor("q.lora_B.weight", &[1, 1], &[1.0]));
    let pair = Pair::new(&weights, &adapter, lora(json!({})));
    pair.write("base/config.json", b"{\"dtype\": \"bfloat16\"}");
    let merged = pair.merge();
    // ΔW = 2⁻⁸ + 2⁻¹⁹ is just above the middle of bfloat16's 1 and 1 + 2⁻⁷.
    assert_eq!(merged.tensors[0].dtype, "BF16");
    assert_eq!(pair.read("q.weight"), [1.0 + 2_f32.powi(-7)]);
    fs::remove_dir_all(pair.path("out")).unwrap();
    let options = MergeOptions {
        dtype: Some(NewType::F32),
        initial: None,
    };
    let merged = pair.merge_with(&options).unwrap();
    assert_eq!(merged.tensors[0].dtype, "F32");
    assert_eq!(
        pair.read("q.weight"),
        [1.0 + 2_f32.powi(-8) + 2_f32.powi(-19)]
    );
    assert_eq!(pair.json("config.json")["dtype"], "float32");
}

#[test]
fn the_beginning_of_pissa_is_taken_away() {
    let (weights, adapter) = (base(&["q.weight"]), factors("q"));
    let config = lora(json!({"init_lora_weights": "pissa"}));
    let pair = Pair::new(&all(&weights), &all(&adapter), config);
    let error = pair.refused();
    assert!(error.contains("--initial"), "{error}");
    let mut before = factors("q");
    before[0].2 = vec![1.0, 1.0];
    pair.write("initial/adapter_model.safetensors", &bytes(&all(&before)));
    let config = lora(json!({}));
    pair.write("initial/adapter_config.json", config.to_string().as_bytes());
    let options = MergeOptions {
        dtype: None,
        initial: Some(pair.path("initial")),
    };
    pair.merge_with(&options).unwrap();
    // 2 ([3, 5] − [1, 1]) in the first row.
    assert_eq!(pair.read("q.weight"), [5.0, 10.0, 3.0, 4.0]);
}

#[test]
fn what_has_no_place_is_refused_by_name() {
    let refused = |weights: &Tensors, adapter: &Tensors, config: Value| {
        Pair::new(weights, adapter, config).refused()
    };
    let (owned, made) = (base(&["q.weight"]), factors("q"));
    let (weights, adapter) = (all(&owned), all(&made));
    let with = |name: &str, shape: &[usize], values: &[f32]| {
        let mut more = made.clone();
        more.push((
            format!("base_model.model.{name}"),
            shape.to_vec(),
            values.to_vec(),
        ));
        more
    };
    let saved = || lora(json!({"modules_to_save": ["classifier"]}));
    for (more, config, expected) in [
        // No such module, no such tensor, no such bias.
        (
            with("k.lora_A.weight", &[1, 2], &[1.0; 2]),
            lora(json!({})),
            "k.lora_A.weight",
        ),
        (
            with("pooler.weight", &[2, 2], &[1.0; 4]),
            saved(),
            "pooler.weight in the base model",
        ),
        (
            with("q.lora_B.bias", &[2], &[1.0; 2]),
            lora(json!({})),
            "q.bias in the base model",
        ),
        // Another family's part, and another shape.
        (with("q.oft_r", &[2], &[1.0; 2]), lora(json!({})), "OFT"),
        (
            with("q.weight", &[2, 2], &[1.0; 4]),
            lora(json!({})),
            "a second",
        ),
    ] {
        let error = refused(&weights, &all(&more), config);
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let elsewhere = base(&["other.weight"]);
    let error = refused(&all(&elsewhere), &adapter, lora(json!({})));
    assert!(error.contains("a weight of q in the base model"), "{error}");
    let wide = tensor("q.weight", &[2, 3], &[0.0; 6]);
    let error = refused(&wide, &adapter, lora(json!({})));
    assert!(error.contains("found [2, 3]"), "{error}");
    let error = refused(&weights, &adapter, json!({"peft_type": "LORA", "r": 1}));
    assert!(error.contains("lora_alpha"), "{error}");
    let error = refused(&weights, &adapter, json!({"peft_type": "OFT"}));
    assert!(error.contains("OFT"), "{error}");
    // Scales of eight-bit weights are kept elsewhere.
    let eight = vec![("q.weight", Dtype::F8_E4M3, vec![2, 2], vec![0; 4])];
    let error = refused(&eight, &adapter, lora(json!({})));
    assert!(error.contains("F8_E4M3"), "{error}");
    // Numbers that are none, or too large for their type.
    let mut broken = made.clone();
    broken[0].2 = vec![f32::NAN, 1.0];
    let error = refused(&weights, &all(&broken), lora(json!({})));
    assert!(
        error.contains("q.weight") && error.contains("NaN"),
        "{error}"
    );
    let small = half::f16::ONE.to_le_bytes().repeat(4);
    let half = vec![("q.weight", Dtype::F16, vec![2, 2], small)];
    broken[0].2 = vec![1e5, 1.0];
    let error = refused(&half, &all(&broken), lora(json!({})));
    assert!(
        error.contains("q.weight") && error.contains("F16"),
        "{error}"
    );
}

/// More tensors than threads, in pools of several sizes.
#[test]
fn threads_leave_the_bytes_alone() {
    let names: Vec<String> = (0..9).map(|layer| format!("layer.{layer}.q")).collect();
    let weights: Vec<String> = names.iter().map(|name| format!("{name}.weight")).collect();
    let weights = base(&weights.iter().map(String::as_str).collect::<Vec<_>>());
    let adapter: Vec<_> = names.iter().flat_map(|name| factors(name)).collect();
    let pair = Pair::new(&all(&weights), &all(&adapter), lora(json!({})));
    let merged = |threads: usize, out: &str| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let [base, adapter, out] = ["base", "adapter", out].map(|name| pair.path(name));
        let options = MergeOptions::default();
        let run = || merge(&base, &adapter, &out, &options, |_, _| {}).unwrap();
        let record = pool.build().unwrap().install(run);
        (record, contents(&out))
    };
    let one = merged(1, "one");
    assert_eq!(one.0.tensors.len(), 9);
    for threads in [2, 5] {
        assert_eq!(merged(threads, &format!("out{threads}")), one);
    }
}

fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}
