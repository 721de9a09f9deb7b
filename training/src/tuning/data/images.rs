//! Images: CIFAR, Food-101, folders with one of images for each class.

use std::path::Path;
use std::sync::Arc;

use rankwise_data::{
    Augment, Cifar, ImageColumns, ImageProcessor, ImageSet, Part, SkipBad, parquet_files,
};

use super::{Evaluated, Judged, Source, TuneData};
use crate::Error;
use crate::metric::Metric;
use crate::model::{Head, ModelConfig};
use crate::tuning::config::TaskSettings;

pub(super) fn read(
    settings: &TaskSettings,
    model: &Path,
    seed: u64,
    skip: &mut SkipBad,
) -> Result<TuneData, Error> {
    let processor = Arc::new(match ImageProcessor::load(model)? {
        Some(processor) => processor,
        None => ModelConfig::read(model)?.image_processor()?,
    });
    let folder = &settings.data;
    // Both parts have the training part's classes.
    let mut read = |part: Part, classes: Option<&[String]>| -> Result<ImageSet, Error> {
        let files = parquet_files(folder, part)?;
        if !files.is_empty() {
            let columns = ImageColumns {
                classes: classes.map(<[String]>::to_vec),
                ..ImageColumns::default()
            };
            return Ok(ImageSet::parquet(&files, &columns, skip)?);
        }
        Ok(match settings.name.as_str() {
            "cifar10" => ImageSet::cifar(folder, Cifar::Ten, part, skip)?,
            "cifar100" => ImageSet::cifar(folder, Cifar::Hundred, part, skip)?,
            "food101" => ImageSet::food101(folder, part, skip)?,
            _ => {
                let names: &[&str] = match part {
                    Part::Train => &["train"],
                    _ => &["validation", "val", "test"],
                };
                let mut found = names.iter().map(|name| folder.join(name));
                let found = found.find(|path| path.is_dir());
                let found = found.ok_or_else(|| Error::Setting {
                    origin: "configuration".to_owned(),
                    key: "task.data".to_owned(),
                    expected: format!("a folder with a folder called {}", names.join(", ")),
                    found: folder.display().to_string(),
                })?;
                ImageSet::folder(&found, classes)?
            }
        })
    };
    let train = read(Part::Train, None)?;
    let classes = train.classes().to_vec();
    let test = read(Part::Test, Some(&classes))?;
    if let Some(label) = test
        .labels()
        .iter()
        .find(|label| **label as usize >= classes.len())
    {
        return Err(Error::Setting {
            origin: folder.display().to_string(),
            key: "labels".to_owned(),
            expected: format!("one of the training part's {} classes", classes.len()),
            found: label.to_string(),
        });
    }
    let provenance = vec![train.provenance().clone(), test.provenance().clone()];
    let source = |set: ImageSet, augment: Augment| Source::Images {
        set: Arc::new(set),
        processor: Arc::clone(&processor),
        augment,
        seed,
        order: None,
    };
    let augment = Augment {
        flip: settings.flip,
        crop: settings.random_crop,
    };
    Ok(TuneData {
        head: Head::Classes(classes.len()),
        classes,
        order: None,
        train: source(train, augment),
        evaluated: vec![Evaluated {
            name: "validation".to_owned(),
            source: source(test, Augment::default()),
            judged: Judged::Outputs(vec![Metric::Accuracy]),
        }],
        provenance,
        skip: SkipBad::default(),
    })
}
