use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use ndarray::ArrayView2;
use rand::seq::SliceRandom;
use rankwise_analysis::{
    Epsilon, Side, TauRule, linalg, measures, orthogonality, product_singular_values,
};
use rankwise_data::{sha256_hex, stream};

use super::folder::{Held, RunFolder};
use super::method::MaskPeriod;
use super::model::{Head, Rows};
use super::record::{EpochRecord, RunSummary, StopReason};
use super::task::Task;
use crate::method::mask::drawn;
use crate::{Error, Precision, RunConfig};

/// Rows that are scored at once: few enough for their logits to stay in the cache.
const SCORED_AT_ONCE: usize = 256;

/// What [`train`] tells of its progress.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// That many epochs were found in the folder and are not trained again.
    Found(usize),
    /// One more epoch was trained, evaluated and measured.
    Epoch(&'a EpochRecord),
}

/// Trains one run of the last-layer protocol and returns its summary and records.
///
/// With a `folder`, the run is recorded there; a finished run is only read back, and a killed one
/// goes on from its last checkpoint to the same bits. Without one, nothing is written.
///
/// # Errors
/// [`Error::Setting`] if `config` does not fit the task; [`Error::ForeignFolder`];
/// [`Error::Device`]; [`Error::Data`] if a file cannot be written.
pub fn train(
    config: &RunConfig,
    origin: &str,
    task: &Task,
    folder: Option<&Path>,
    mut observe: impl FnMut(Progress<'_>),
) -> Result<RunSummary, Error> {
    crate::single_threaded_products();
    let config = &config.resolved(origin, task.inputs(), task.outputs())?;
    let device = config.device.open()?;
    let (folder, held) = match folder {
        Some(path) => {
            let (folder, held) = RunFolder::open(path, config, &device)?;
            (Some(folder), held)
        }
        None => (None, Held::Nothing),
    };
    let mut run = Run::new(config, task, &device)?;
    let mut records = Vec::new();
    let mut earlier_seconds = 0.0;
    match held {
        Held::Whole(summary) => {
            same_data(&summary.data_sha256, task, folder.as_ref())?;
            observe(Progress::Found(summary.epochs));
            return Ok(*summary);
        }
        Held::Part(checkpoint) => {
            same_data(&checkpoint.data_sha256, task, folder.as_ref())?;
            observe(Progress::Found(checkpoint.records.len()));
            run.head.restore(checkpoint.state, checkpoint.updates)?;
            records = checkpoint.records;
            earlier_seconds = checkpoint.wall_seconds;
        }
        Held::Nothing => {}
    }

    let start = Instant::now();
    let seconds = || earlier_seconds + start.elapsed().as_secs_f64();
    let mut stop_reason = StopReason::Completed;
    let epochs = config.schedule.epochs;
    for epoch in records.len() + 1..=epochs {
        run.epoch(epoch)?;
        let Some(record) = run.measure(epoch)? else {
            stop_reason = StopReason::Diverged;
            break;
        };
        observe(Progress::Epoch(&record));
        records.push(record);
        if let Some(folder) = &folder
            && epoch % config.schedule.checkpoint_every == 0
            && epoch < epochs
        {
            folder.write_checkpoint(&run.head, &records, seconds(), &task.sha256)?;
        }
    }

    let config_sha256 = match &folder {
        Some(folder) => folder.config_sha256().to_owned(),
        None => sha256_hex(config.to_toml().as_bytes()),
    };
    let summary = RunSummary {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        seed: config.seed,
        data_sha256: task.sha256.clone(),
        config_sha256,
        platform: config.device.platform(),
        stop_reason,
        epochs: records.len(),
        trainable_parameters: run.head.state().0.elem_count() / 3,
        wall_seconds: seconds(),
        last: records.last().cloned(),
    };
    if let Some(folder) = &folder {
        let bias = Head::initial_bias(config, task.inputs(), task.outputs());
        folder.write_results(&run.head, &bias, config, &records, &summary)?;
    }
    Ok(summary)
}

/// Whether a run goes on with the features that it began with.
fn same_data(begun: &str, task: &Task, folder: Option<&RunFolder>) -> Result<(), Error> {
    match folder {
        Some(folder) if begun != task.sha256 => Err(Error::ForeignFolder {
            path: folder.path().to_path_buf(),
            what: format!(
                "its run began with other data: expected features of SHA-256 {begun}, found {}",
                task.sha256
            ),
        }),
        _ => Ok(()),
    }
}

struct Run<'a> {
    config: &'a RunConfig,
    head: Head,
    /// The training rows in file order, and the same once more to be shuffled from.
    train: Rows,
    test: Rows,
}

impl<'a> Run<'a> {
    fn new(config: &'a RunConfig, task: &Task, device: &Device) -> Result<Self, Error> {
        let head = Head::new(config, task.inputs(), task.outputs(), device)?;
        let rows = |split: &rankwise_data::Split| -> Result<Rows, Error> {
            let features = Task::tensor(split, config.precision.dtype(), device)?;
            Ok(head.prepare(features, split.labels().to_vec())?)
        };
        let (train, test) = (rows(task.set.train())?, rows(task.set.test())?);
        Ok(Self {
            config,
            head,
            train,
            test,
        })
    }

    /// One pass over the training rows. Everything random is addressed by the epoch's number.
    fn epoch(&mut self, epoch: usize) -> Result<(), Error> {
        let seed = self.config.seed;
        let count = self.train.labels.len();
        let mut order: Vec<u32> = (0..count as u32).collect();
        order.shuffle(&mut stream(seed, "shuffle", epoch as u64));
        // Gathered once an epoch: every batch is then a view.
        let shuffled = self.train.shuffled(&order)?;

        let method = &self.config.method;
        let mut mask_rng = stream(seed, "mask", epoch as u64);
        let mut draw = || -> Option<Vec<u32>> {
            let (rank, directions) = (method.rank?, method.directions?);
            Some(drawn(&mut mask_rng, rank, directions))
        };
        let update = self.config.update();
        let mut selected = draw();
        let size = self.config.schedule.batch_size;
        for start in (0..count).step_by(size) {
            if start > 0 && method.mask == Some(MaskPeriod::Step) {
                selected = draw();
            }
            let batch = shuffled.slice(start, size.min(count - start))?;
            let gradients = self.head.gradients(&batch, selected.as_deref())?;
            self.head.apply(&gradients, selected.as_deref(), update)?;
        }
        Ok(())
    }

    /// Evaluates and measures; `None` if something is not finite any more.
    fn measure(&self, epoch: usize) -> Result<Option<EpochRecord>, Error> {
        let (train_loss, train_accuracy) = self.evaluate(&self.train)?;
        let (test_loss, test_accuracy) = self.evaluate(&self.test)?;
        let regulariser = self.head.regulariser()?;
        let sigma = match self.spectrum() {
            Err(Error::Analysis(rankwise_analysis::Error::NonFinite { .. })) => return Ok(None),
            sigma => sigma?,
        };
        if !(train_loss.is_finite() && test_loss.is_finite()) {
            return Ok(None);
        }
        let shape = self.head.frozen().dims2()?;
        let epsilon = match self.config.precision {
            Precision::F32 => Epsilon::F32,
            Precision::F64 => Epsilon::F64,
        };
        let budget = self.config.method.rank.unwrap_or(usize::MAX);
        Ok(Some(EpochRecord {
            epoch,
            train_loss,
            train_accuracy,
            test_loss,
            test_accuracy,
            regulariser,
            measures: measures(&sigma, shape, TauRule::Precision(epsilon)),
            orthogonality: orthogonality(&sigma, shape, budget, Side::Rows),
        }))
    }

    /// Mean loss, and accuracy in per cent.
    fn evaluate(&self, rows: &Rows) -> Result<(f64, f64), Error> {
        let count = rows.labels.len();
        let (mut loss, mut right) = (0.0, 0);
        for start in (0..count).step_by(SCORED_AT_ONCE) {
            let part = rows.slice(start, SCORED_AT_ONCE.min(count - start))?;
            let (part_loss, part_right) = self.head.score(&part)?;
            loss += part_loss;
            right += part_right;
        }
        Ok((loss / count as f64, 100.0 * right as f64 / count as f64))
    }

    /// The singular values of ΔW.
    fn spectrum(&self) -> Result<Vec<f64>, Error> {
        let sigma = match self.head.factors()? {
            Some(factors) => {
                let (a, b_transposed) = (host(&factors.a)?, host(&factors.b_transposed)?);
                let b = view(&b_transposed).reversed_axes();
                product_singular_values(b, view(&a), factors.scale)?
            }
            None => {
                let weight = self
                    .head
                    .weight()?
                    .expect("not low-rank, so the weight is trained");
                let update =
                    (weight.to_dtype(DType::F64)? - self.head.frozen().to_dtype(DType::F64)?)?;
                linalg::singular_values(view(&host(&update)?))?
            }
        };
        Ok(sigma)
    }
}

impl Rows {
    fn shuffled(&self, order: &[u32]) -> candle_core::Result<Self> {
        let indices = Tensor::new(order, self.features.device())?;
        Ok(Self {
            features: self.features.index_select(&indices, 0)?,
            base: self
                .base
                .as_ref()
                .map(|base| base.index_select(&indices, 0))
                .transpose()?,
            labels: order.iter().map(|&row| self.labels[row as usize]).collect(),
        })
    }
}

/// Row-major float64 values on the host, with the shape.
struct Host(Vec<f64>, (usize, usize));

fn host(tensor: &Tensor) -> candle_core::Result<Host> {
    let values = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    Ok(Host(values, tensor.dims2()?))
}

fn view(Host(values, shape): &Host) -> ArrayView2<'_, f64> {
    ArrayView2::from_shape(*shape, values).expect("values of a tensor of that shape")
}
