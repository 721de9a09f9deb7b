use std::ffi::OsString;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rankwise_analysis::linalg::{singular_values, svd};
use rankwise_data::create_folder;
use rankwise_paper::{ScalingRecord, scaling_chart, text_table, write_figure};
use rankwise_theory::{Cell, Family, Lift, Sample, Strategy};
use serde::Deserialize;

use super::Outcome;
use crate::cli::{BenchName, BenchOptions, Common};

/// Times the hot paths here, and a peer's beside them.
pub fn run(options: &BenchOptions, common: &Common) -> Result<Outcome> {
    match options.name {
        BenchName::Spectra => spectra(options, common),
        BenchName::Theorem => theorem(options, common),
    }
}

/// What the peer prints.
#[derive(Deserialize)]
struct Peer {
    version: String,
    /// Singular values alone and the thin decomposition, for every width.
    seconds: Vec<[f64; 2]>,
}

/// Singular values and thin decompositions of Gaussian matrices, beside NumPy's on one thread.
fn spectra(options: &BenchOptions, common: &Common) -> Result<Outcome> {
    const WIDTHS: [usize; 3] = [64, 256, 1024];
    let mut rng = rankwise_data::stream(common.seed.unwrap_or(0), "bench/spectra", 0);
    let mut ours = Vec::new();
    for width in WIDTHS {
        let w = Sample::gaussian(width, width, &mut rng)?;
        let w = w.points();
        ours.push([
            median_seconds(options.repeats, || singular_values(w).map(drop))?,
            median_seconds(options.repeats, || svd(w).map(drop))?,
        ]);
    }
    let peer = numpy(options.repeats, &WIDTHS)?;
    let header = vec!["D", "decomposition", "rankwise ms", "NumPy ms", "ratio"];
    let mut rows = Vec::new();
    for ((width, ours), theirs) in WIDTHS.iter().zip(ours).zip(peer.seconds) {
        for (k, what) in ["singular values", "thin"].into_iter().enumerate() {
            rows.push(vec![
                width.to_string(),
                what.to_owned(),
                format!("{:.2}", 1e3 * ours[k]),
                format!("{:.2}", 1e3 * theirs[k]),
                format!("{:.2}", ours[k] / theirs[k]),
            ]);
        }
    }
    println!("{}", text_table(&(header, rows)));
    println!(
        "\nNumPy {} and rankwise, one thread each, medians of {}.",
        peer.version, options.repeats
    );
    Ok(Outcome::Done)
}

fn numpy(repeats: usize, widths: &[usize]) -> Result<Peer> {
    let python = std::env::var_os("RANKWISE_PYTHON").unwrap_or_else(|| OsString::from("python3"));
    let output = Command::new(&python)
        .args(["-c", include_str!("bench_spectra.py"), &repeats.to_string()])
        .args(widths.iter().map(usize::to_string))
        .envs(["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"].map(|v| (v, "1")))
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
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
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
    println!("{}", text_table(&(header, rows.collect())));
    if let Some(out) = &common.out {
        create_folder(out)?;
        write_figure(&scaling_chart(&records)?, out, "scaling")?;
    }
    Ok(Outcome::Done)
}
