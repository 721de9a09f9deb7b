use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rankwise_data::read_text;
use rankwise_paper::{median, text_table};
use rankwise_training::{MethodTable, Sources, StepBench, TuneConfig, tune};
use serde::Deserialize;

use super::Outcome;
use crate::cli::{BenchOptions, Common};
use crate::stdout::outln;

/// MiniLM's shape (all-MiniLM-L6-v2), without dropout.
const CONFIG: &str = r#"{"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6,
    "num_attention_heads": 12, "intermediate_size": 1536, "max_position_embeddings": 512,
    "vocab_size": 30522, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}"#;
const SEQUENCES: usize = 32;
const TOKENS: usize = 64;

/// Learning rate of the epoch on both sides.
const RATE: f64 = 1e-3;

/// What the peer prints.
#[derive(Deserialize)]
struct Peer {
    torch: String,
    peft: String,
    transformers: String,
    step_seconds: f64,
    step_cpu_seconds: f64,
    /// Beyond what the process took before the model was made.
    step_peak_bytes: f64,
    epoch_seconds: Option<f64>,
    epoch_cpu_seconds: Option<f64>,
}

/// Training steps of LoRA and RM-LoRA (r = 8 on all linear layers) on random tokens, and an epoch of
/// MRPC, beside PyTorch with PEFT and as many threads.
pub fn run(options: &BenchOptions, common: &Common) -> Result<Outcome> {
    let threads = common.threads.map_or(1, std::num::NonZeroUsize::get);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()?;
    let before = usage()?;
    let mut ours = Vec::new();
    for method in ["lora", "rm-lora"] {
        let method = method.parse().map_err(anyhow::Error::msg)?;
        let bench = StepBench {
            config: CONFIG.to_owned(),
            method: MethodTable {
                method,
                ..MethodTable::default()
            },
            sequences: SEQUENCES,
            tokens: TOKENS,
            steps: options.repeats,
        };
        let steps = pool.install(|| bench.run())?;
        let middle = |values: Vec<f64>| median(values).unwrap_or(f64::NAN);
        let seconds = middle(steps.iter().map(|step| step.seconds).collect());
        let cpu = middle(steps.iter().filter_map(|step| step.cpu_seconds).collect());
        ours.push((seconds, cpu));
    }
    let peak = usage()?.peak - before.now;
    let epoch = match (&options.model, &options.data) {
        (Some(model), Some(data)) => Some(pool.install(|| epoch(model, data))?),
        _ => None,
    };
    let peer = python(options, threads)?;

    let header = vec!["what", "rankwise", "PyTorch + PEFT", "ratio"];
    let row = |what: &str, ours: f64, theirs: f64, unit: &str| {
        vec![
            what.to_owned(),
            format!("{ours:.3} {unit}"),
            format!("{theirs:.3} {unit}"),
            format!("{:.2}", ours / theirs),
        ]
    };
    let (seconds, cpu) = ours[0];
    let mut rows = vec![
        row("LoRA step, wall", seconds, peer.step_seconds, "s"),
        row("LoRA step, CPU", cpu, peer.step_cpu_seconds, "s"),
        row(
            "LoRA steps, peak memory",
            peak / 1e9,
            peer.step_peak_bytes / 1e9,
            "GB",
        ),
        vec![
            "RM-LoRA step, CPU, beside LoRA's".to_owned(),
            format!("{:.3} s", ours[1].1),
            String::new(),
            format!("{:.2} (of our LoRA's)", ours[1].1 / cpu),
        ],
    ];
    if let (Some(epoch), Some(theirs)) = (&epoch, peer.epoch_seconds) {
        rows.push(row("epoch of MRPC, wall", epoch.seconds, theirs, "s"));
        if let (Some(ours), Some(theirs)) = (epoch.cpu_seconds, peer.epoch_cpu_seconds) {
            rows.push(row("epoch of MRPC, CPU", ours, theirs, "s"));
        }
        rows.push(vec![
            "ranks of every module, once an epoch".to_owned(),
            format!("{:.3} s", epoch.rank_seconds),
            String::new(),
            format!("{:.4} (of our epoch)", epoch.rank_seconds / epoch.seconds),
        ]);
    }
    outln!("{}", text_table(&(header, rows)));
    outln!(
        "\n{SEQUENCES} sequences of {TOKENS} tokens, MiniLM's shape, r = 8 on all linear layers; \
         PyTorch {}, PEFT {}, transformers {}; {threads} threads each, medians of {} steps.",
        peer.torch,
        peer.peft,
        peer.transformers,
        options.repeats
    );
    Ok(Outcome::Done)
}

struct Epoch {
    seconds: f64,
    cpu_seconds: Option<f64>,
    rank_seconds: f64,
}

/// One epoch of MRPC with batches of 32 and sequences of up to 128 tokens, as they come.
fn epoch(model: &Path, data: &Path) -> Result<Epoch> {
    let mut config = TuneConfig::default();
    config.model.path = model.display().to_string();
    config.task.data = data.to_path_buf();
    config.schedule.epochs = 1;
    config.optimizer.learning_rate = RATE;
    let before = usage()?;
    let summary = tune(&config, &Sources::of(&config), None, |_| {})?;
    let after = usage()?;
    let Some(last) = summary.last else {
        bail!("bench: the epoch diverged");
    };
    // Reading and evaluating are no part of it; the processor's time is shared in proportion.
    let share = last.train_seconds / summary.wall_seconds;
    let cpu = after
        .cpu_seconds
        .zip(before.cpu_seconds)
        .map(|(after, before)| after - before);
    Ok(Epoch {
        seconds: last.train_seconds,
        cpu_seconds: cpu.map(|cpu| cpu * share),
        rank_seconds: last.rank_seconds,
    })
}

/// What this process has used.
struct Usage {
    /// Bytes in memory at most, and now.
    peak: f64,
    now: f64,
    cpu_seconds: Option<f64>,
}

/// From `/proc`: Linux only.
fn usage() -> Result<Usage> {
    let status =
        read_text(Path::new("/proc/self/status")).context("bench train: Linux is needed")?;
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
        number.map_or(f64::NAN, |kilobytes| 1024.0 * kilobytes)
    };
    Ok(Usage {
        peak: bytes("VmHWM:"),
        now: bytes("VmRSS:"),
        cpu_seconds: rankwise_training::cpu_seconds(),
    })
}

fn python(options: &BenchOptions, threads: usize) -> Result<Peer> {
    let python = std::env::var_os("RANKWISE_PYTHON").unwrap_or_else(|| OsString::from("python3"));
    let threads = threads.to_string();
    let mut command = Command::new(&python);
    command
        .args(["-c", include_str!("bench_train.py")])
        .args([&options.repeats.to_string(), &threads])
        .args([SEQUENCES.to_string(), TOKENS.to_string(), RATE.to_string()])
        .envs(["OMP_NUM_THREADS", "MKL_NUM_THREADS"].map(|v| (v, &threads)))
        .env_remove("RAYON_NUM_THREADS");
    if let (Some(model), Some(data)) = (&options.model, &options.data) {
        command.args([model, data]);
    }
    let output = command
        .output()
        .with_context(|| format!("bench: {} did not start", python.display()))?;
    if !output.status.success() {
        let last = String::from_utf8_lossy(&output.stderr);
        let last = last.lines().last().unwrap_or("no message").to_owned();
        bail!(
            "bench: {} with torch, transformers and peft is needed (set RANKWISE_PYTHON): {last}",
            python.display()
        );
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).context("bench: the peer's answer")
}
