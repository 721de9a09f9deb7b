use std::path::Path;

use anyhow::{Result, bail};
use rankwise_data::{FeatureSet, TextTable, sha256_file};
use rankwise_training::{DeviceName, Precision, SentenceEncoder};

use super::Outcome;
use crate::cli::{Common, FeaturesOptions};
use crate::progress;
use crate::stdout::outln;

/// Encodes the texts of a train and a test table and writes their features.
pub fn run(options: &FeaturesOptions, common: &Common) -> Result<Outcome> {
    let Some(out) = &common.out else {
        bail!("features: --out FILE is needed: where the features go");
    };
    let table =
        |path: &Path| TextTable::read_csv(path, &options.text_column, &options.label_column);
    let mut train = table(&options.data)?;
    if let Some(per_class) = options.per_class {
        train = train.first_per_class(per_class);
    }
    let test = table(&options.test)?;
    let classes = train.classes();
    let train_labels = train.label_indices(&options.data, &classes)?;
    let test_labels = test.label_indices(&options.test, &classes)?;

    let precision = if options.double {
        Precision::F64
    } else {
        Precision::F32
    };
    let encoder = SentenceEncoder::load(&options.model, precision, DeviceName::Cpu)?;
    let bar = progress::bar(train.texts.len() + test.texts.len(), "texts", common.quiet);
    bar.set_message("encoding");
    let encode = |table: &TextTable| {
        let texts: Vec<&str> = table.texts.iter().map(String::as_str).collect();
        encoder.encode(&texts, |count| bar.inc(count as u64))
    };
    let (train_features, test_features) = (encode(&train)?, encode(&test)?);
    bar.finish_and_clear();

    let mut set = FeatureSet::new(
        out,
        encoder.width(),
        classes,
        (&train_features, &train_labels),
        (&test_features, &test_labels),
    )?
    .with_note(
        "features",
        "mean-pooled last hidden states, mask-weighted, not normalised",
    )
    .with_note(
        "model sha256",
        &sha256_file(&options.model.join("model.safetensors"))?,
    )
    .with_note("train sha256", &sha256_file(&options.data)?)
    .with_note("test sha256", &sha256_file(&options.test)?);
    for (key, text) in &options.note {
        set = set.with_note(key, text);
    }
    set.write(out)?;
    if common.json {
        let summary = serde_json::json!({
            "path": out,
            "sha256": sha256_file(out)?,
            "train_rows": set.train().rows(),
            "test_rows": set.test().rows(),
            "width": set.train().width(),
            "classes": set.classes().len(),
        });
        outln!("{summary:#}");
    } else if !common.quiet {
        outln!(
            "{}: {} train and {} test rows of {} features, {} classes, sha256 {}",
            out.display(),
            set.train().rows(),
            set.test().rows(),
            set.train().width(),
            set.classes().len(),
            sha256_file(out)?
        );
    }
    Ok(Outcome::Done)
}
