//! What the help of a command says beyond its options.

use std::fmt::Write as _;

use rankwise_analysis::{FindingKind, QUANTITIES, RULE_LANGUAGE};
use rankwise_theory::Case;
use rankwise_training::{Method, RunConfig, TuneConfig};

/// Columns of the help's tables.
const WIDTH: usize = 96;

pub const TRAIN_EXAMPLES: &str = "Examples:
  rankwise train --model all-MiniLM-L6-v2/ --task mrpc --data glue/ --method lora,rm-lora --out runs
  rankwise train --method lora,rm-lora --rank 16,32 --seeds 0,1,2 --out runs
  rankwise train --config my.toml --set method.lambda=3e-4 --out runs
  rankwise train --method rm-lora --rank 16 --dump-config > my.toml

The methods, the tasks with the files they read, and the defaults are under `rankwise train --help`.";

/// Tasks of one layout: their names, and what --data holds for them.
const TASKS: [(&str, &str); 8] = [
    (
        "cola sst2 mrpc stsb qqp mnli qnli rte wnli",
        "GLUE: train.tsv and dev.tsv (of MNLI dev_matched.tsv and dev_mismatched.tsv) in the folder or in \
         its CoLA/, SST-2/, MRPC/ and so on; or the Hub's train-*.parquet and validation-*.parquet",
    ),
    (
        "squad",
        "SQuAD 1.1: train-v1.1.json and dev-v1.1.json, or Parquet as the Hub has it; max_length is 384 \
         unless set",
    ),
    (
        "banking77",
        "train.csv and test.csv with the columns text and category",
    ),
    (
        "text",
        "your own texts: a table train.csv and one called validation.csv, dev.csv, val.csv or test.csv; \
         also .tsv, .jsonl, .json, .parquet. Columns text and label; others by --set \
         task.columns.text=…, task.columns.label=…, task.columns.text_pair=… (a second text), \
         task.columns.regression=true (labels are numbers). Other files by --set task.train=FILE, \
         task.validation=FILE",
    ),
    (
        "lm",
        "train.txt and validation.txt, plain text: the next token is predicted",
    ),
    (
        "cifar10 cifar100",
        "the binary version: data_batch_*.bin and test_batch.bin, or train.bin and test.bin; or Parquet",
    ),
    (
        "food101",
        "images/CLASS/ID.jpg with meta/classes.txt, meta/train.txt and meta/test.txt; or Parquet",
    ),
    (
        "images",
        "your own images: train/CLASS/… and validation/CLASS/… (or val, test); or Parquet with the columns \
         image and label",
    ),
];

/// Methods, tasks, defaults.
pub fn train() -> String {
    let mut text = format!("{TRAIN_EXAMPLES}\n\nMethods\n\n");
    let methods = Method::KEYS.iter().filter_map(|key| {
        let method = key.parse().ok()?;
        Some((*key, about(&method)))
    });
    text += &entries(methods);
    let heads = RunConfig::default();
    let (schedule, rate) = (&heads.schedule, heads.optimizer.learning_rate);
    let _ = write!(
        text,
        "\nWithout --model: full, lora, r-lora, gm-lora, rm-lora on sentence features of Banking77 that \
         are built in, or of --set task.features=FILE; {} epochs in batches of {}, learning rate {rate}.\
         \n\nTasks of --model, and what --data holds\n\n",
        schedule.epochs, schedule.batch_size
    );
    text += &entries(TASKS);
    text += "\nDefaults with --model; --set KEY=VALUE changes any, such as optimizer.weight_decay=0.01, \
             and --dump-config prints them with the method's own\n\n";
    for line in TuneConfig::default().to_toml().lines() {
        let _ = writeln!(text, "  {line}");
    }
    text + "\nA run's folder: config.toml, epochs.parquet, steps.parquet, ranks.parquet, adapter/ and \
            best/adapter/ (PEFT loads them) or tuned/, run.json. Ctrl-C or a kill loses nothing before \
            the last checkpoint: the same command goes on from there, to the same bits."
}

/// What a method trains, and where it comes from.
fn about(method: &Method) -> &'static str {
    match method {
        Method::Full(_) => "all of the model's weights",
        Method::BitFit(_) => "the biases (Ben Zaken et al. 2022)",
        Method::Lora(_) => "ΔW = α/R·B·A (Hu et al. 2021)",
        Method::RsLora(_) => "LoRA with α/√R for α/R (Kalajdzievski 2023)",
        Method::LoraPlus(_) => "LoRA whose B has a higher learning rate than A (Hayou et al. 2024)",
        Method::Dora(_) => {
            "the weight's direction by LoRA, its rows' lengths apart (Liu et al. 2024)"
        }
        Method::Pissa(_) => {
            "LoRA begun at the weight's largest singular directions (Meng et al. 2024)"
        }
        Method::Olora(_) => "LoRA begun at the weight's QR decomposition (Büyükakyüz 2024)",
        Method::Vera(_) => {
            "scales of frozen random factors that all layers share (Kopiczko et al. 2024)"
        }
        Method::AdaLora(_) => {
            "singular values and directions; the rank goes where it counts (Zhang et al. 2023)"
        }
        Method::Sora(_) => "LoRA with a sparse gate on every direction (Ding et al. 2023)",
        Method::DyLora(_) => "LoRA that can be cut to any rank afterwards (Valipour et al. 2023)",
        Method::PriLora(_) => {
            "LoRA with ranks that grow with depth, and pruning (Benedek & Wolf 2024)"
        }
        Method::DeltaLora(_) => "LoRA that moves the frozen weight too (Zi et al. 2023)",
        Method::BiLora(_) => {
            "singular values on one part of the data, directions on another (Qiang et al. 2024)"
        }
        Method::RLora(_) => "LoRA with a penalty on directions that are not orthogonal",
        Method::GmLora(_) => "LoRA of whose R directions r̂ move in a step",
        Method::RmLora(_) => "R-LoRA's penalty with GM-LoRA's mask (the RM-LoRA paper)",
    }
}

pub const VERIFY_EXAMPLES: &str = "Examples:
  rankwise verify --out theory
  rankwise verify --widths 64 --target-layers 1 --block-layers 4,6,8 --draws 20 --ranks 8
  rankwise verify --case case.json
  rankwise verify --counterexample
  rankwise verify --random 10000 --seed 0
  rankwise verify --transformer --out theory
  rankwise verify --descent --out theory
  rankwise verify --base pretrained/ --tuned fine-tuned/ --out errors";

/// The format of `--case`.
pub fn verify() -> String {
    let keys = [
        ("id", "a name"),
        ("D", "the networks' width"),
        (
            "L_target, L_frozen",
            "layers of the target and of the frozen network",
        ),
        (
            "target_W, target_b",
            "a D × D matrix (a list of rows) and D biases for every target layer",
        ),
        ("frozen_W", "a matrix for every frozen layer"),
        (
            "partition",
            "for every target layer the frozen layers, from 1, that are adapted to it",
        ),
        ("R", "the adapter's rank in every frozen layer"),
        ("Sigma", "Σ = E[x xᵀ] of the inputs, D × D"),
        (
            "x_points, x_probs",
            "optional: finitely many inputs with that Σ, on which the error is measured, and their \
             probabilities (equal if left out)",
        ),
    ];
    format!(
        "{VERIFY_EXAMPLES}\n\nThe format of --case\n\nOne JSON object, or a list of them. A complete \
         file:\n\n{}\n{}\nThe answer is a line of JSON for every case: rank_E and e of the discrepancies \
         E_i, the bounds (bound_literal is Eq. 8 as printed, bound_corrected as the proof needs it, \
         bound_spectral, bound_tail), with x_points the measured error and which bounds it violates, \
         the least rank that is exact (R_star_uniform), the best partition and the best ranks.",
        Case::EXAMPLE,
        entries(keys)
    )
}

pub const AUDIT_EXAMPLES: &str = "Examples:
  rankwise audit my-adapter/
  rankwise audit 'runs/*/adapter' --out audit
  rankwise audit my-dora/ --base pretrained/
  rankwise audit adapters/ --metrics results.csv --out audit
  rankwise audit my-adapter/ --fail-on non_finite --fail-on 'median(effective_rank) < 2'
  rankwise audit --base pretrained/ --tuned fine-tuned/ --out changes

Exit codes: 0 done, 2 nothing could be audited or bad usage, 3 a rule of --fail-on is broken.";

/// The rules' language and all of its names.
pub fn audit() -> String {
    let quantities = QUANTITIES.iter().map(|q| (q.name, q.formula));
    let findings = FindingKind::names().iter().filter_map(|name| {
        let kind = FindingKind::named(name)?;
        Some((*name, kind.meaning()))
    });
    format!(
        "{AUDIT_EXAMPLES}\n\nRules of --fail-on\n\nA rule states what is wrong: a comparison of \
         numbers, the name of a finding, or several with and, or, not.\n\nNumbers of a module (σ the \
         singular values of ΔW, λ = σ²)\n\n{}\nFindings on a module\n\n{}\n{}",
        entries(quantities),
        entries(findings),
        plain(RULE_LANGUAGE)
    )
}

/// Names with what they mean, in two columns.
fn entries<'a>(entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    /// Longer names have a line of their own.
    const LONGEST: usize = 22;
    let entries: Vec<_> = entries.into_iter().collect();
    let lengths = entries.iter().map(|(name, _)| name.chars().count());
    let indent = 4 + lengths
        .filter(|length| *length <= LONGEST)
        .max()
        .unwrap_or(4);
    let mut text = String::new();
    for (name, meaning) in entries {
        let mut line = format!("  {name}");
        let mut begun = line.chars().count() > indent;
        if begun {
            text += &line;
            text.push('\n');
            line = String::new();
            begun = false;
        }
        for word in meaning.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH && begun {
                text += &line;
                text.push('\n');
                line = String::new();
                begun = false;
            }
            if begun {
                line.push(' ');
            } else {
                let missing = indent.saturating_sub(line.chars().count());
                line.extend(std::iter::repeat_n(' ', missing));
            }
            line += word;
            begun = true;
        }
        text += &line;
        text.push('\n');
    }
    text
}

/// Markdown as it reads on a terminal: no fences and no marks, links by their words, rows of tables
/// as lines.
fn plain(markdown: &str) -> String {
    let mut text = String::new();
    let mut is_code = false;
    for line in markdown.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
            continue;
        }
        if is_code {
            let _ = writeln!(text, "  {line}");
            continue;
        }
        if line.starts_with("|---") {
            continue;
        }
        let line = without_links(line.trim_start_matches("# ")).replace('`', "");
        let cells = line.strip_prefix('|').and_then(|row| row.strip_suffix('|'));
        match cells.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>()) {
            Some(cells) => match cells.as_slice() {
                ["", ..] => continue,
                [what, of, names] => {
                    let _ = writeln!(text, "- {what} of {of}: {names}");
                }
                other => {
                    let _ = writeln!(text, "- {}", other.join(": "));
                }
            },
            None => {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    text
}

/// `[words](target)` as its words.
fn without_links(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("](") {
        let Some((start, words)) = before.rsplit_once('[') else {
            break;
        };
        text += start;
        text += words;
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_method_quantity_and_finding_is_explained() {
        let train = train();
        let tasks = TASKS.iter().flat_map(|(names, _)| names.split(' '));
        assert_eq!(tasks.collect::<Vec<_>>(), TuneConfig::TASKS);
        for key in Method::KEYS {
            assert!(train.contains(&format!("\n  {key} ")), "{key}");
        }
        let audit = audit();
        let names = QUANTITIES.iter().map(|quantity| quantity.name);
        for name in names.chain(FindingKind::names().iter().copied()) {
            assert!(audit.contains(&format!("\n  {name} ")), "{name}");
        }
        for mark in ["](", "`", "|---"] {
            assert!(!audit.contains(mark), "{mark}");
        }
    }

    #[test]
    fn entries_hang_under_their_meaning() {
        let long = "word ".repeat(30);
        let text = entries([("a", "first"), ("name", long.trim())]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "  a     first");
        assert!(lines[1].starts_with("  name  word") && lines[2].starts_with("        word"));
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH));
        assert_eq!(text.matches("word").count(), 30);
    }

    #[test]
    fn markdown_is_read_as_text() {
        let text = plain(
            "# Names\n\n| | of | names |\n|---|---|---|\n| numbers | a module | every [`Q`](crate::Q), such as `x` |\n",
        );
        assert_eq!(text, "Names\n\n- numbers of a module: every Q, such as x\n");
    }
}
