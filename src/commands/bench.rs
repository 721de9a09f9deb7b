use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::builder::ValueHint;
use clap::{Args, Subcommand};
use rankwise_analysis::linalg::{Arithmetic, singular_values, singular_values_in, svd};
use rankwise_data::create_folder;
use rankwise_paper::{Cells, ScalingRecord, median, scaling_chart, text_table, write_figure};
use rankwise_theory::{Cell, Family, Lift, Sample, Strategy};
use rankwise_training::DeviceName;
use serde::{Deserialize, Serialize};

use super::output::{keep, print_json};
use super::{Outcome, bench_device, bench_train};
use crate::cli::device;
use crate::common::{Common, folder, json, seed, usual};
use crate::stdout::outln;

/// What is timed.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Singular values and decompositions beside NumPy's and PyTorch's.
    #[command(
        arg = folder("Folder for spectra.json"),
        arg = seed("Seed of the matrices [default: 0]"),
        arg = json(),
        args = usual(),
        mut_arg("threads", |threads| threads.help(PEERS_THREADS))
    )]
    Spectra(SpectraOptions),
    /// One verification of the theorem against width and depth.
    #[command(
        arg = folder("Folder for theorem.json and the figure scaling"),
        arg = seed("Seed of the networks [default: 0]"),
        arg = json(),
        args = usual()
    )]
    Theorem(Repeats),
    /// Training steps and, with --model and --data, an epoch of MRPC beside PyTorch with PEFT.
    #[command(
        arg = folder("Folder for train.json"),
        arg = json(),
        args = usual(),
        mut_arg("threads", |threads| threads.help(PEERS_THREADS))
    )]
    Train(TrainOptions),
    /// A device's numbers beside the CPU's, on small models of every family; exit code 1 if they are
    /// too far apart.
    #[command(arg = folder("Folder for device.json"), arg = json(), args = usual())]
    Device(DeviceOptions),
}

const PEERS_THREADS: &str = "Threads here and of the peer [default: 1]";

#[derive(Debug, Args)]
pub struct Repeats {
    /// Times of which the median is taken.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub repeats: usize,
}

#[derive(Debug, Args)]
pub struct SpectraOptions {
    #[command(flatten)]
    repeats: Repeats,
    /// Widths of the matrices.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256, 1024], value_name = "D,…")]
    sizes: Vec<usize>,
}

#[derive(Debug, Args)]
pub struct TrainOptions {
    #[command(flatten)]
    pub repeats: Repeats,
    /// A BERT checkpoint folder with its tokenizer.
    #[arg(long, value_name = "DIR", requires = "data", value_hint = ValueHint::DirPath)]
    pub model: Option<PathBuf>,
    /// The folder of GLUE's MRPC.
    #[arg(long, value_name = "DIR", requires = "model", value_hint = ValueHint::DirPath)]
    pub data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DeviceOptions {
    /// cpu or cuda:N [default: cpu].
    #[arg(long, value_name = "DEVICE", value_parser = device())]
    pub device: Option<DeviceName>,
}

/// Times the hot paths here, and a peer's beside them.
pub fn run(bench: &Bench, common: &Common) -> Result<Outcome> {
    match bench {
        Bench::Spectra(options) => spectra(options, common),
        Bench::Theorem(options) => theorem(options, common),
        Bench::Device(options) => bench_device::run(options, common),
        Bench::Train(options) => bench_train::run(options, common),
    }
}

/// What the peer prints.
#[derive(Deserialize)]
struct Peer {
    numpy: String,
    torch: Option<String>,
    seconds: Vec<PeerSeconds>,
}

/// Of one width.
#[derive(Deserialize)]
struct PeerSeconds {
    values: f64,
    thin: Option<f64>,
    torch_double: Option<f64>,
    torch_single: Option<f64>,
}

/// Widths beyond it are timed without vectors only: minutes otherwise.
const WIDEST_THIN: usize = 1024;

/// From this width on single precision is another path.
const NARROWEST_SINGLE: usize = 384;

/// Median seconds of one decomposition at one width; `None` where none were taken.
#[derive(Serialize)]
struct SpectraRecord {
    width: usize,
    decomposition: &'static str,
    rankwise_f64: f64,
    rankwise_f32: Option<f64>,
    numpy_f64: f64,
    torch_f64: Option<f64>,
    torch_f32: Option<f64>,
}

#[derive(Serialize)]
struct SpectraReport {
    threads: usize,
    repeats: usize,
    numpy: String,
    torch: Option<String>,
    records: Vec<SpectraRecord>,
}

/// Singular values and thin decompositions of Gaussian matrices, beside NumPy's and PyTorch's with
/// as many threads.
fn spectra(options: &SpectraOptions, common: &Common) -> Result<Outcome> {
    let (widths, repeats) = (&options.sizes, options.repeats.repeats);
    let threads = common.threads.map_or(1, std::num::NonZeroUsize::get);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()?;
    let mut rng = rankwise_data::stream(common.seed.unwrap_or(0), "bench/spectra", 0);
    let mut ours = Vec::new();
    for &width in widths {
        let w = Sample::gaussian(width, width, &mut rng)?;
        let w = w.points();
        let time = |work: &(dyn Fn() -> Result<(), rankwise_analysis::Error> + Sync)| {
            pool.install(|| median_seconds(repeats, work))
        };
        let values = time(&|| singular_values(w).map(drop))?;
        // Narrower matrices are decomposed in double precision whatever is asked for.
        let is_large = width >= NARROWEST_SINGLE;
        let single = is_large
            .then(|| time(&|| singular_values_in(w, Arithmetic::Single).map(drop)))
            .transpose()?;
        let thin = (width <= WIDEST_THIN).then(|| time(&|| svd(w).map(drop)));
        ours.push((values, single, thin.transpose()?));
    }
    let peer = python(repeats, threads, widths)?;
    let mut records = Vec::new();
    for ((&width, ours), theirs) in widths.iter().zip(ours).zip(&peer.seconds) {
        let (values, single, thin) = ours;
        records.push(SpectraRecord {
            width,
            decomposition: "singular values",
            rankwise_f64: values,
            rankwise_f32: single,
            numpy_f64: theirs.values,
            torch_f64: theirs.torch_double,
            torch_f32: theirs.torch_single,
        });
        if let (Some(rankwise_f64), Some(numpy_f64)) = (thin, theirs.thin) {
            records.push(SpectraRecord {
                width,
                decomposition: "thin",
                rankwise_f64,
                rankwise_f32: None,
                numpy_f64,
                torch_f64: None,
                torch_f32: None,
            });
        }
    }
    let report = SpectraReport {
        threads,
        repeats,
        numpy: peer.numpy,
        torch: peer.torch,
        records,
    };
    keep(&report, "spectra", common)?;
    if common.json {
        print_json(&report)?;
    } else if !common.quiet {
        outln!("{}", text_table(&spectra_cells(&report)));
        outln!(
            "\nNumPy {}, PyTorch {}, rankwise; {threads} threads each, medians of {repeats}; ratios to \
             the faster of the same precision.",
            report.numpy,
            report.torch.as_deref().unwrap_or("not installed"),
        );
    }
    Ok(Outcome::Done)
}

fn spectra_cells(report: &SpectraReport) -> Cells {
    let mut header = vec!["D", "threads", "decomposition", "rankwise f64 ms"];
    header.extend(["rankwise f32 ms", "NumPy f64 ms", "PyTorch f64 ms"]);
    header.extend(["PyTorch f32 ms", "f64 ratio", "f32 ratio"]);
    let text = |value: Option<f64>, factor: f64| {
        value.map_or_else(String::new, |value| format!("{:.2}", factor * value))
    };
    let row = |record: &SpectraRecord| {
        let numpy = record.numpy_f64;
        let faster = record.torch_f64.map_or(numpy, |torch| torch.min(numpy));
        let single = record.rankwise_f32.zip(record.torch_f32);
        vec![
            record.width.to_string(),
            report.threads.to_string(),
            record.decomposition.to_owned(),
            text(Some(record.rankwise_f64), 1e3),
            text(record.rankwise_f32, 1e3),
            text(Some(numpy), 1e3),
            text(record.torch_f64, 1e3),
            text(record.torch_f32, 1e3),
            text(Some(record.rankwise_f64 / faster), 1.0),
            text(single.map(|(ours, theirs)| ours / theirs), 1.0),
        ]
    };
    (header, report.records.iter().map(row).collect())
}

fn python(repeats: usize, threads: usize, widths: &[usize]) -> Result<Peer> {
    let python = std::env::var_os("RANKWISE_PYTHON").unwrap_or_else(|| OsString::from("python3"));
    let threads = threads.to_string();
    let output = Command::new(&python)
        .args(["-c", include_str!("bench_spectra.py")])
        .args([&repeats.to_string(), &threads, &WIDEST_THIN.to_string()])
        .args(widths.iter().map(usize::to_string))
        .envs(["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"].map(|v| (v, &threads)))
        .output()
        .with_context(|| format!("bench: {} did not start", python.display()))?;
    if !output.status.success() {
        let last = String::from_utf8_lossy(&output.stderr);
        let last = last.lines().last().unwrap_or("no message").to_owned();
        bail!(
            "bench: {} with NumPy is needed (set RANKWISE_PYTHON): {last}",
            python.display()
        );
    }
    serde_json::from_slice(&output.stdout).context("bench: the peer's answer")
}

fn median_seconds<E>(repeats: usize, work: impl Fn() -> Result<(), E>) -> Result<f64, E> {
    let mut times = Vec::with_capacity(repeats);
    for _ in 0..repeats.max(1) {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(median(times).unwrap_or(f64::NAN))
}

/// One verification of a Gaussian problem against its width and its depth.
fn theorem(options: &Repeats, common: &Common) -> Result<Outcome> {
    let widths = [16, 32, 64, 128, 256, 512].map(|width| (width, 4));
    let depths = [2, 4, 8, 16].map(|depth| (64, depth));
    let mut records = Vec::new();
    for (width, layers) in widths.into_iter().chain(depths) {
        let trial = Cell {
            width,
            // Two layers a block, so that the depth does not lose its digits.
            target_layers: layers / 2,
            frozen_layers: layers,
            family: Family::Gaussian,
            bias_scale: 1.0,
            samples: 200,
            lift: Lift::Sample,
            strategy: Strategy::default(),
            seed: common.seed.unwrap_or(0),
        }
        .draw()?;
        let problem = || {
            (
                trial.problem().target().clone(),
                trial.problem().frozen().clone(),
            )
        };
        let partition = trial.problem().partition().clone();
        let seconds = median_seconds(options.repeats, || {
            let (target, frozen) = problem();
            rankwise_theory::Problem::new(target, frozen, partition.clone())?;
            trial.verify(width / 8).map(drop)
        })?;
        records.push(ScalingRecord {
            width,
            layers,
            seconds,
        });
    }
    keep(&records, "theorem", common)?;
    if let Some(out) = &common.out {
        create_folder(out)?;
        write_figure(&scaling_chart(&records)?, out, "scaling")?;
    }
    if common.json {
        print_json(&records)?;
        return Ok(Outcome::Done);
    }
    let header = vec!["D", "L", "seconds", "ns / (L D³)"];
    let rows = records.iter().map(|r| {
        let work = (r.layers * r.width.pow(3)) as f64;
        vec![
            r.width.to_string(),
            r.layers.to_string(),
            format!("{:.4}", r.seconds),
            format!("{:.2}", 1e9 * r.seconds / work),
        ]
    });
    if !common.quiet {
        outln!("{}", text_table(&(header, rows.collect())));
    }
    Ok(Outcome::Done)
}
