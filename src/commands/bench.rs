use std::ffi::OsString;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rankwise_analysis::linalg::{Arithmetic, singular_values, singular_values_in, svd};
use rankwise_data::create_folder;
use rankwise_paper::{ScalingRecord, median, scaling_chart, text_table, write_figure};
use rankwise_theory::{Cell, Family, Lift, Sample, Strategy};
use serde::Deserialize;

use super::{Outcome, bench_device, bench_train};
use crate::cli::{BenchName, BenchOptions, Common};
use crate::stdout::outln;

/// Times the hot paths here, and a peer's beside them.
pub fn run(options: &BenchOptions, common: &Common) -> Result<Outcome> {
    match options.name {
        BenchName::Spectra => spectra(options, common),
        BenchName::Theorem => theorem(options, common),
        BenchName::Device => bench_device::run(options, common),
        BenchName::Train => bench_train::run(options, common),
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

/// Singular values and thin decompositions of Gaussian matrices, beside NumPy's and PyTorch's with
/// as many threads.
fn spectra(options: &BenchOptions, common: &Common) -> Result<Outcome> {
    let widths = &options.sizes;
    let mut header = vec!["D", "threads", "decomposition", "rankwise f64 ms"];
    header.extend(["rankwise f32 ms", "NumPy f64 ms", "PyTorch f64 ms"]);
    header.extend(["PyTorch f32 ms", "f64 ratio", "f32 ratio"]);
    let mut rows = Vec::new();
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
            pool.install(|| median_seconds(options.repeats, work))
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
    let peer = python(options.repeats, threads, widths)?;
    for ((width, ours), theirs) in widths.iter().zip(ours).zip(&peer.seconds) {
        let ms = |seconds: Option<f64>| {
            seconds.map_or_else(String::new, |seconds| format!("{:.2}", 1e3 * seconds))
        };
        let ratio = |ours: Option<f64>, theirs: Option<f64>| {
            let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
        };
        let mut row = |what: &str, ours: [Option<f64>; 2], numpy, torch: [Option<f64>; 2]| {
            let [double, single] = ours;
            let faster = torch[0].map_or(numpy, |torch| torch.min(numpy));
            rows.push(vec![
                width.to_string(),
                threads.to_string(),
                what.to_owned(),
                ms(double),
                ms(single),
                ms(Some(numpy)),
                ms(torch[0]),
                ms(torch[1]),
                ratio(double, Some(faster)),
                ratio(single, torch[1]),
            ]);
        };
        let (values, single, thin) = ours;
        let torch = [theirs.torch_double, theirs.torch_single];
        row(
            "singular values",
            [Some(values), single],
            theirs.values,
            torch,
        );
        if let (Some(ours), Some(theirs)) = (thin, theirs.thin) {
            row("thin", [Some(ours), None], theirs, [None, None]);
        }
    }
    let torch = peer.torch.as_deref().unwrap_or("not installed");
    outln!("{}", text_table(&(header, rows)));
    outln!(
        "\nNumPy {}, PyTorch {torch}, rankwise; {threads} threads each, medians of {}; ratios to the \
         faster of the same precision.",
        peer.numpy,
        options.repeats
    );
    Ok(Outcome::Done)
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
fn theorem(options: &BenchOptions, common: &Common) -> Result<Outcome> {
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
    outln!("{}", text_table(&(header, rows.collect())));
    if let Some(out) = &common.out {
        create_folder(out)?;
        write_figure(&scaling_chart(&records)?, out, "scaling")?;
    }
    Ok(Outcome::Done)
}
