//! Folders of runs that were never trained, with numbers whose means are known.

use std::fs;
use std::path::Path;

use rankwise_analysis::{Epsilon, TauRule, measures};
use rankwise_data::{Column, Table};
use rankwise_training::{
    ModuleRank, Scores, Trainable, TuneConfig, TuneRecord, TuneStop, TuneSummary,
};

use super::figures::{curve_panels, module_maps, rank_panels};
use super::settings::{beside_the_method, made_with};
use super::*;
use crate::PageHead;
use crate::numbers::{decimals, signed};
use crate::tables::text_table;

/// A run of two epochs: the accuracies and the training losses after each, and modules with so many
/// equal singular values, which is their effective rank.
struct Made<'a> {
    task: &'a str,
    method: &'a str,
    seed: u64,
    accuracy: [f64; 2],
    train_loss: [f64; 2],
    modules: &'a [(&'a str, usize)],
}

const MODULES: [(&str, usize); 3] = [
    ("bert.encoder.layer.0.query", 2),
    ("bert.encoder.layer.1.query", 4),
    ("bert.encoder.layer.0.output.dense", 3),
];

impl Made<'_> {
    fn record(&self, epoch: usize) -> TuneRecord {
        let module = |(name, rank): &(&str, usize)| {
            let sigma = vec![1.0; *rank];
            ModuleRank {
                module: (*name).to_owned(),
                budget: Some(4),
                shape: (8, 8),
                measures: measures(&sigma, (8, 8), TauRule::Precision(Epsilon::F32)),
                singular_values: sigma,
            }
        };
        TuneRecord {
            epoch,
            steps: 10 * epoch as u64,
            train_loss: self.train_loss[epoch - 1],
            regulariser: 0.0,
            scores: vec![Scores {
                set: "validation".to_owned(),
                loss: 0.5,
                metrics: vec![("accuracy".to_owned(), Some(self.accuracy[epoch - 1]))],
            }],
            ranks: self.modules.iter().map(module).collect(),
            train_seconds: 1.0,
            evaluate_seconds: 1.0,
            rank_seconds: 1.0,
        }
    }

    fn summary(&self) -> TuneSummary {
        TuneSummary {
            version: "0.0.0".to_owned(),
            method: self.method.to_owned(),
            rank: Some(4),
            task: self.task.to_owned(),
            seed: self.seed,
            config_sha256: String::new(),
            data_sha256: hashes(["train.tsv", "dev.tsv"]),
            model_sha256: hashes(["config.json", "model.safetensors"]),
            platform: "any".to_owned(),
            stop: TuneStop::Completed,
            steps: 20,
            trainable: Trainable {
                update: 90,
                head: 10,
                total: 100,
            },
            best: match self.accuracy {
                [first, second] if first >= second => Some((1, first)),
                [_, second] => Some((2, second)),
            },
            notes: Vec::new(),
            wall_seconds: 7.0,
            last: Some(self.record(2)),
        }
    }

    fn config(&self) -> TuneConfig {
        let Self {
            task, method, seed, ..
        } = self;
        let text = format!(
            "seed = {seed}\n[model]\npath = \"m\"\n[task]\nname = \"{task}\"\n\
             [method]\nname = \"{method}\"\nrank = 4\n"
        );
        TuneConfig::from_toml(&text, "test").unwrap()
    }

    fn write(&self, below: &Path) {
        let name = format!("{}-{}-s{}", self.task, self.method, self.seed);
        self.write_as(&below.join(name), &self.config(), &self.summary());
    }

    fn write_as(&self, folder: &Path, config: &TuneConfig, summary: &TuneSummary) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("config.toml"), config.to_toml()).unwrap();
        let json = serde_json::to_string(summary).unwrap();
        fs::write(folder.join("run.json"), json).unwrap();
        let records = [self.record(1), self.record(2)];
        let real =
            |of: fn(&TuneRecord) -> Option<f64>| -> Column { records.iter().map(of).collect() };
        let effective = |r: &TuneRecord| r.mean_rank(|m| m.measures.effective_rank);
        let table = Table::new(vec![
            ("epoch", records.iter().map(|r| r.epoch).collect()),
            ("train_loss", real(|r| Some(r.train_loss))),
            ("validation_accuracy", real(|r| r.deciding()?.1)),
            ("mean_effective_rank", real(effective)),
        ]);
        let path = folder.join("epochs.parquet");
        table.unwrap().write_parquet(&path).unwrap();
    }
}

/// Files whose hashes are made of their own names.
fn hashes(names: [&str; 2]) -> Vec<(String, String)> {
    let hash = |name: &str| (name.to_owned(), format!("hash of {name}"));
    names.map(hash).to_vec()
}

fn lora(seed: u64, accuracy: [f64; 2]) -> Made<'static> {
    Made {
        task: "rte",
        method: "lora",
        seed,
        accuracy,
        train_loss: [0.8, 0.5 + 0.1 * seed as f64],
        modules: &MODULES,
    }
}

fn rm_lora(seed: u64, accuracy: [f64; 2]) -> Made<'static> {
    Made {
        method: "rm-lora",
        train_loss: [0.9, 0.75 + 0.1 * seed as f64],
        ..lora(seed, accuracy)
    }
}

/// Two methods, two seeds: LoRA ends at 0.6 and 0.8, RM-LoRA at 0.7 and 0.7.
fn both(folder: &Path) -> TuningRuns {
    lora(0, [0.5, 0.6]).write(folder);
    lora(1, [0.5, 0.8]).write(folder);
    rm_lora(0, [0.75, 0.7]).write(folder);
    rm_lora(1, [0.5, 0.7]).write(folder);
    TuningRuns::read(folder).unwrap()
}

#[test]
fn means_and_standard_errors_in_closed_form() {
    let folder = tempfile::tempdir().unwrap();
    let report = TuningReport::new(&both(folder.path()));
    let group = &report.summary[0];
    assert_eq!(
        (group.setting.label(), &group.seeds[..]),
        ("LoRA (R = 4)".to_owned(), &[0, 1][..])
    );
    // Means of 0.6 and 0.8, 0.5 and 0.6; of two numbers the standard error is half their distance.
    let near = |x: f64, y: f64| (x - y).abs() < 1e-15;
    let last = group.measure("last").unwrap();
    assert!(
        near(last.mean, 0.7) && near(last.standard_error().unwrap(), 0.1),
        "{last:?}"
    );
    let loss = group.measure("train_loss").unwrap();
    assert!(
        near(loss.mean, 0.55) && near(loss.standard_error().unwrap(), 0.05),
        "{loss:?}"
    );
    // (2 + 4 + 3) / 3 directions of equal size: all measures agree.
    for name in [
        "numerical_rank",
        "energy_rank_99",
        "stable_rank",
        "effective_rank",
    ] {
        let rank = group.measure(name).unwrap();
        assert!((rank.mean - 3.0).abs() < 1e-12, "{name}: {rank:?}");
    }
    assert_eq!(group.measure("gap"), None);
    let json = serde_json::to_value(&report).unwrap();
    let last = &json["summary"][0]["measures"]["last"];
    assert_eq!(last["count"], 2);
    assert!(near(last["standard_error"].as_f64().unwrap(), 0.1));
    assert_eq!(json["runs"][0]["task"], "rte");
    assert_eq!(json["runs"][2]["best_epoch"], 1);
}

#[test]
fn tables_for_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let report = TuningReport::new(&both(folder.path()));
    let expected = " run               metric    last    best  epoch  train loss    loss  num.  energy rank 99 %  stable  effective  seconds
 rte-lora-s0     accuracy  0.6000  0.6000    2/2      0.5000  0.5000  3.00              3.00    3.00       3.00        7
 rte-lora-s1     accuracy  0.8000  0.8000    2/2      0.6000  0.5000  3.00              3.00    3.00       3.00        7
 rte-rm-lora-s0  accuracy  0.7000  0.7500    1/2      0.7500  0.5000  3.00              3.00    3.00       3.00        7
 rte-rm-lora-s1  accuracy  0.7000  0.7000    2/2      0.8500  0.5000  3.00              3.00    3.00       3.00        7";
    assert_eq!(text_table(&tuning_cells(&report.runs)), expected);
    let expected = " task           method  n    metric             last             best       train loss  seconds
 rte      LoRA (R = 4)  2  accuracy  0.7000 ± 0.1000  0.7000 ± 0.1000  0.5500 ± 0.0500    7 ± 0
 rte   RM-LoRA (R = 4)  2  accuracy  0.7000 ± 0.0000  0.7250 ± 0.0250  0.8000 ± 0.0500    7 ± 0";
    assert_eq!(text_table(&tuning_summary_cells(&report.summary)), expected);
    let table = tuning_summary_table(&report.summary).unwrap();
    assert_eq!(table.numbers("last_count").unwrap(), [2.0, 2.0]);
    assert_eq!(table.texts("method").unwrap(), ["lora", "rm-lora"]);
    assert!(table.numbers("gap_mean").unwrap()[0].is_nan());
}

#[test]
fn sentences_say_what_the_numbers_say() {
    let folder = tempfile::tempdir().unwrap();
    let all = both(folder.path());
    let findings = TuningReport::new(&all).findings;
    // Accuracies differ by 0.1 and −0.1, losses by 0.25 twice.
    assert_eq!(
        findings,
        [
            "rte: accuracy at the end, best mean first: LoRA (R = 4) 0.7000 ± 0.1000, \
             RM-LoRA (R = 4) 0.7000 ± 0.0000 (mean ± standard error).",
            "rte: RM-LoRA (R = 4) against LoRA of the same R (2 seeds, differences of the same seed ± \
             standard error), at the end: accuracy 0.0000 ± 0.1000, no difference shown; training loss \
             +0.2500 ± 0.0000, the same in every seed; effective rank of ΔW 0.00 ± 0.00, the same in \
             every seed; higher and lower are said of differences beyond Student's 95 % interval.",
            "In 1 of 4 runs the deciding metric was best before the last epoch, by up to 0.0500; a \
             best epoch is chosen by the set that it is judged on.",
        ]
    );
    // A third run of another rate, with a seed that is there already.
    let other = lora(1, [0.5, 0.8]);
    let mut config = other.config();
    config.optimizer.learning_rate = 0.5;
    other.write_as(&folder.path().join("other"), &config, &other.summary());
    let findings = TuningReport::new(&TuningRuns::read(folder.path()).unwrap()).findings;
    let has = |text: &str| findings.iter().any(|finding| finding.contains(text));
    assert!(has("differ in more than the seed"), "{findings:?}");
    assert!(has("optimizer.learning_rate."), "{findings:?}");
    assert!(has("seed 1 is there more than once"), "{findings:?}");
}

/// A difference of five seeds is higher, one of two as large is not: t = 12.7 standard errors of two
/// seeds, 2.8 of five.
#[test]
fn a_difference_is_told_from_chance_by_students_interval() {
    let told = |seeds: u64| {
        let folder = tempfile::tempdir().unwrap();
        for seed in 0..seeds {
            let wobble = 0.01 * (seed % 2) as f64;
            lora(seed, [0.5, 0.6]).write(folder.path());
            rm_lora(seed, [0.5, 0.64 + wobble]).write(folder.path());
        }
        let findings = TuningReport::new(&TuningRuns::read(folder.path()).unwrap()).findings;
        findings[1].clone()
    };
    let two = told(2);
    assert!(
        two.contains("accuracy +0.0450 ± 0.0050, no difference shown;"),
        "{two}"
    );
    let five = told(5);
    assert!(
        five.contains("accuracy +0.0440 ± 0.0024, higher;"),
        "{five}"
    );
    assert!(!two.contains("clearly") && !five.contains("clearly"));
}

/// At 1280 px: the run's name and at most one column of words, 128 px each or more, beside numbers.
#[test]
fn the_page_of_one_task_has_columns_for_one_screen() {
    let folder = tempfile::tempdir().unwrap();
    let head = PageHead {
        command: "rankwise table runs".to_owned(),
        version: "0.0.0".to_owned(),
    };
    let header = |page: &str, id: &str| -> Vec<String> {
        let table = &page[page.find(&format!("id=\"{id}\"")).unwrap()..];
        let head = &table[..table.find("</thead>").unwrap()];
        let cells = head.split("<th scope=\"col\"").skip(1);
        let text = |cell: &str| cell.split(['>', '<']).nth(1).unwrap().to_owned();
        cells.map(text).collect()
    };
    let page = tuning_page(&both(folder.path()), &head).unwrap();
    let ranks = ["num.", "energy rank 99 %", "stable", "effective"];
    let first = [
        "run",
        "method",
        "seed",
        "best epoch",
        "last",
        "best",
        "train loss",
    ];
    let expected = [&first[..], &ranks[..], &["seconds"][..]].concat();
    assert_eq!(header(&page, "overview"), expected);
    let expected = [&["task", "method", "n"][..], &ranks[..]].concat();
    assert_eq!(header(&page, "table-1"), expected);
    assert!(page.contains(">1/2</td>"));
    // What differs has a column.
    let other = Made {
        task: "mrpc",
        ..lora(0, [0.5, 0.6])
    };
    other.write(folder.path());
    let page = tuning_page(&TuningRuns::read(folder.path()).unwrap(), &head).unwrap();
    assert_eq!(header(&page, "overview")[1], "task");
}

#[test]
fn other_files_make_runs_unlike_and_other_places_do_not() {
    let folder = tempfile::tempdir().unwrap();
    lora(0, [0.5, 0.6]).write(folder.path());
    let other = lora(1, [0.5, 0.8]);
    let differing = |config: &TuneConfig, summary: &TuneSummary| {
        other.write_as(&folder.path().join("other"), config, summary);
        let report = TuningReport::new(&TuningRuns::read(folder.path()).unwrap());
        let text = "differ in more than the seed";
        let is_told = report.findings.iter().any(|one| one.contains(text));
        let keys = report.summary[0].differing.clone();
        assert_eq!(is_told, !keys.is_empty(), "{:?}", report.findings);
        keys
    };
    // The same files elsewhere, by other names.
    let (mut config, mut summary) = (other.config(), other.summary());
    config.model.path = "./elsewhere/m".to_owned();
    config.model.revision = Some("main".to_owned());
    config.task.data = "elsewhere".into();
    config.task.train = Some("elsewhere/first.tsv".into());
    summary.data_sha256[0].0 = "first.tsv".to_owned();
    assert_eq!(differing(&config, &summary), [""; 0]);
    // Other files in the same place.
    let (config, mut summary) = (other.config(), other.summary());
    summary.data_sha256[1].1 = "another".to_owned();
    assert_eq!(differing(&config, &summary), ["data_sha256"]);
    summary.model_sha256[1].1 = "another".to_owned();
    assert_eq!(
        differing(&config, &summary),
        ["data_sha256", "model_sha256"]
    );
    // An adapter to begin with is one more file of the model.
    let mut summary = other.summary();
    let adapter = ("adapter_model.safetensors".to_owned(), "its".to_owned());
    summary.model_sha256.push(adapter);
    assert_eq!(differing(&config, &summary), ["model_sha256"]);
    let (mut config, summary) = (other.config(), other.summary());
    config.task.limit = 100;
    config.method.common.dropout = 0.1;
    assert_eq!(
        differing(&config, &summary),
        ["method.dropout", "task.limit"]
    );
    // What diverged is in no mean.
    let mut summary = other.summary();
    summary.stop = TuneStop::Diverged {
        step: 3,
        module: "m.0".to_owned(),
    };
    assert_eq!(differing(&config, &summary), [""; 0]);
}

#[test]
fn methods_that_differ_in_more_say_so() {
    let folder = tempfile::tempdir().unwrap();
    both(folder.path());
    let other = rm_lora(1, [0.5, 0.7]);
    let (mut config, mut summary) = (other.config(), other.summary());
    config.schedule.epochs = 5;
    config.method.common.alpha = Some(16.0);
    summary.data_sha256[0].1 = "another".to_owned();
    let path = folder.path().join("rte-rm-lora-s1");
    other.write_as(&path, &config, &summary);
    let findings = TuningReport::new(&TuningRuns::read(folder.path()).unwrap()).findings;
    let keys = "data_sha256, method.alpha, schedule.epochs";
    for finding in &findings[..2] {
        let ending = format!("; they also differ in {keys}.");
        assert!(finding.ends_with(&ending), "{finding}");
    }
    // What is a method's own does not count, what several methods share does.
    let of = |method: &'static str, first: &str| {
        let made = Made {
            method,
            ..lora(0, [0.5, 0.6])
        };
        let mut text = made.config().to_toml();
        if !first.is_empty() {
            let default = "initialisation = \"kaiming-uniform\"";
            assert!(text.contains(default), "{text}");
            text = text.replace(default, &format!("initialisation = \"{first}\""));
        }
        let config = TuneConfig::from_toml(&text, "test").unwrap();
        made_with(&config, &made.summary())
    };
    let (plain, gaussian) = (of("lora", ""), of("lora", "gaussian"));
    let methods = ["rs-lora", "rm-lora", "gm-lora", "full"].map(|method| of(method, ""));
    let [rs, rm, gm, full] = &methods;
    assert_eq!(beside_the_method(&[&plain, rs, rm, gm, full]), [""; 0]);
    assert_eq!(
        beside_the_method(&[&gaussian, rs]),
        ["method.initialisation"]
    );
    assert_eq!(beside_the_method(&[&gaussian, rm]), [""; 0]);
}

#[test]
fn a_last_epoch_as_good_as_the_best_is_not_past_it() {
    let folder = tempfile::tempdir().unwrap();
    let told = || {
        let findings = TuningReport::new(&TuningRuns::read(folder.path()).unwrap()).findings;
        findings.last().unwrap().clone()
    };
    // The best epoch is the first of two that are the same.
    lora(0, [0.6, 0.6]).write(folder.path());
    lora(1, [0.5, 0.8]).write(folder.path());
    assert_eq!(
        told(),
        "No epoch is better than the last, by the deciding metric, in any run (2)."
    );
    lora(2, [0.5 + 3e-5, 0.5]).write(folder.path());
    let tiny = told();
    assert!(
        tiny.starts_with("In 1 of 3 runs") && tiny.contains("by up to 3.0e-5;"),
        "{tiny}"
    );
}

#[test]
fn huge_numbers_are_told_by_their_power_of_ten() {
    for (value, digits, expected) in [
        (1.20727e31, 4, "1.2073e31"),
        (-2.5e6, 2, "−2.5000e6"),
        (1e6, 0, "1.0000e6"),
        (999_999.0, 4, "999999.0000"),
        (0.5, 4, "0.5000"),
        (f64::INFINITY, 4, "inf"),
    ] {
        assert_eq!(decimals(value, digits), expected);
    }
    assert_eq!(signed(-2.5e6, 4), "−2.5000e6");
    assert_eq!(signed(1.20727e31, 4), "+1.2073e31");
    let folder = tempfile::tempdir().unwrap();
    for (seed, loss) in [(0, 1e31), (1, 3e31)] {
        let astray = Made {
            train_loss: [0.8, loss],
            ..lora(seed, [0.5, 0.6])
        };
        astray.write(folder.path());
    }
    let all = TuningRuns::read(folder.path()).unwrap();
    let report = TuningReport::new(&all);
    // The training loss.
    let (_, runs) = tuning_cells(&report.runs);
    assert_eq!(
        (&runs[0][5][..], &runs[1][5][..]),
        ("1.0000e31", "3.0000e31")
    );
    let (header, summary) = tuning_summary_cells(&report.summary);
    let at = header.iter().position(|name| *name == "train loss");
    assert_eq!(summary[0][at.unwrap()], "2.0000e31 ± 1.0000e31");
}

#[test]
fn what_is_no_finished_run_is_left_out_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let error = TuningRuns::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("found none"), "{error}");
    lora(0, [0.5, 0.6]).write(folder.path());
    let one = lora(1, [0.5, 0.6]);
    for name in [
        "going", "damaged", "foreign", "short", "diverged", "late", "head",
    ] {
        one.write_as(&at(name), &one.config(), &one.summary());
    }
    fs::remove_file(at("going/run.json")).unwrap();
    fs::write(at("damaged/run.json"), "{\"version\": \"1").unwrap();
    let mut summary = one.summary();
    summary.seed = 3;
    one.write_as(&at("foreign"), &one.config(), &summary);
    summary = one.summary();
    summary.last = Some(one.record(1));
    one.write_as(&at("short"), &one.config(), &summary);
    let stop = TuneStop::Diverged {
        step: 3,
        module: "m.0".to_owned(),
    };
    (summary.last, summary.stop) = (None, stop.clone());
    one.write_as(&at("diverged"), &one.config(), &summary);
    // One that diverged later is in the table and in no mean.
    summary.last = Some(one.record(2));
    one.write_as(&at("late"), &one.config(), &summary);
    fs::write(
        at("head/config.toml"),
        "[method]\nname = \"lora\"\nlambda = 0.1\n",
    )
    .unwrap();
    fs::create_dir(at("figures")).unwrap();
    let all = TuningRuns::read(folder.path()).unwrap();
    let reasons: Vec<(&str, &str)> = all
        .left_out
        .iter()
        .map(|left| (&left.name[..], &left.reason[..]))
        .collect();
    let names: Vec<&str> = reasons.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        ["damaged", "diverged", "foreign", "going", "head", "short"]
    );
    for (place, part) in [
        (0, "run.json: EOF"),
        (
            1,
            "diverged before its first record, in step 3, first in m.0",
        ),
        (2, "found (\"rte\", \"lora\", 3)"),
        (3, "still going"),
        (4, "lambda"),
        (
            5,
            "expected epochs.parquet of run.json's 1 epochs, found 2 rows",
        ),
    ] {
        assert!(reasons[place].1.contains(part), "{:?}", reasons[place]);
    }
    let report = TuningReport::new(&all);
    let [group] = &report.summary[..] else {
        panic!("one setting");
    };
    assert_eq!((group.diverged, &group.seeds[..]), (1, &[0][..]));
    assert!(
        report.findings[1].contains("1 of 2 runs diverged"),
        "{:?}",
        report.findings
    );
    // One value has no standard error.
    let json = serde_json::to_value(group).unwrap();
    assert!(json["measures"]["last"]["standard_error"].is_null());
    assert!(text_table(&tuning_cells(&report.runs)).contains("diverged"));
}

#[test]
fn curves_are_means_with_a_band_of_one_standard_error() {
    let folder = tempfile::tempdir().unwrap();
    let all = both(folder.path());
    let panels = curve_panels(&all);
    let titles: Vec<&str> = panels.iter().map(|panel| &panel.title[..]).collect();
    assert_eq!(titles, ["rte: Accuracy (validation)", "rte: training loss"]);
    let labels: Vec<&str> = panels[0]
        .curves
        .iter()
        .map(|curve| &curve.label[..])
        .collect();
    assert_eq!(labels, ["LoRA (R = 4)", "RM-LoRA (R = 4)"]);
    let lora = &panels[0].curves[0];
    let near = |x: &[f64], y: [f64; 2]| x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-12);
    // Of two numbers the standard error is half their distance: of 0.6 and 0.8 it is 0.1.
    assert_eq!(
        panels[0].x_label,
        "Epoch (mean over seeds, band ± standard error)"
    );
    assert_eq!(lora.x, [1.0, 2.0]);
    assert!(near(&lora.mean, [0.5, 0.7]), "{lora:?}");
    assert!(near(&lora.low, [0.5, 0.6]), "{lora:?}");
    assert!(near(&lora.high, [0.5, 0.8]), "{lora:?}");
    assert!(near(&panels[1].curves[1].mean, [0.9, 0.8]));
    assert!(near(&rank_panels(&all)[0].curves[0].mean, [3.0, 3.0]));
    let svg = &tuning_curves(&all).unwrap()[0].1.svg;
    // Epochs are counted: there is none between 1 and 2.
    assert!(svg.contains(">\n2\n<") && !svg.contains(">\n1.5\n<"));
}

#[test]
fn modules_stand_by_layer_and_kind() {
    let folder = tempfile::tempdir().unwrap();
    both(folder.path());
    let [(name, maps)] = &module_maps(&TuningRuns::read(folder.path()).unwrap())[..] else {
        panic!("one file for one task");
    };
    assert_eq!((&name[..], maps.len()), ("modules", 2));
    let map = &maps[0];
    assert_eq!(map.title, "rte: LoRA (R = 4)");
    assert_eq!(
        (&map.rows[..], &map.columns[..]),
        (
            &["query".to_owned(), "output.dense".to_owned()][..],
            &["0".to_owned(), "1".to_owned()][..]
        )
    );
    let cell = |row: usize, column: usize| map.values[row][column];
    for (value, expected) in [(cell(0, 0), 2.0), (cell(0, 1), 4.0), (cell(1, 0), 3.0)] {
        assert!((value - expected).abs() < 1e-12, "{:?}", map.values);
    }
    assert!(cell(1, 1).is_nan());
    assert_eq!(map.range, (1.0, 4.0));
    // Another task: a file each.
    let other = Made {
        task: "mrpc",
        ..lora(0, [0.5, 0.6])
    };
    other.write(folder.path());
    let all = TuningRuns::read(folder.path()).unwrap();
    let names: Vec<String> = module_maps(&all).into_iter().map(|file| file.0).collect();
    assert_eq!(names, ["modules-mrpc", "modules-rte"]);
    assert_eq!(curve_panels(&all).len(), 4);
}

#[test]
fn a_peer_stands_beside_us() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    let all = both(&runs);
    let line = |method: &str, seed: u64, accuracy: f64, loss: f64| {
        format!(
            "{{\"task\": \"rte\", \"method\": \"{method}\", \"seed\": {seed}, \"torch\": \"x\", \
             \"epochs\": [{{\"train_loss\": 9.0, \"accuracy\": 0.1}}, {{\"train_loss\": {loss}, \
             \"loss\": 0.4, \"accuracy\": {accuracy}, \"f1\": 0.5}}]}}\n"
        )
    };
    // LoRA: 0.7 ± 0.1 here, 0.8 ± 0.1 there. Losses: 0.55 ± 0.05 and 0.95 ± 0.05.
    let mut text = line("lora", 0, 0.7, 0.9) + &line("lora", 1, 0.9, 1.0);
    // RM-LoRA: accuracies without spread here; one seed there would be too little as well.
    text += &(line("rm-lora", 0, 0.7, 0.8) + &line("rm-lora", 1, 0.8, 0.8));
    text += &(line("dora", 0, 0.7, 0.8) + &line("lora", 0, 0.0, 0.0) + "{\"task\": \"rt");
    let path = folder.path().join("peer.jsonl");
    fs::write(&path, text).unwrap();
    let (peer, left_out) = peer_runs(&path).unwrap();
    assert_eq!((peer.len(), left_out.len()), (5, 2));
    assert!(
        left_out[0]
            .reason
            .contains("found rte lora with seed 0 again")
    );
    assert!(left_out[1].name.ends_with("line 7"), "{left_out:?}");
    let comparison = compare_with_peer(&all, &peer, &left_out).unwrap();
    let expected = " task           method      metric             ours  n             peer  n  difference  its s.e.  in s.e.                           verdict
 rte      LoRA (R = 4)    accuracy  0.7000 ± 0.1000  2  0.8000 ± 0.1000  2     −0.1000    0.1414    −0.71        within two standard errors
 rte      LoRA (R = 4)  train_loss  0.5500 ± 0.0500  2  0.9500 ± 0.0500  2     −0.4000    0.0707    −5.66        beyond two standard errors
 rte   RM-LoRA (R = 4)    accuracy  0.7000 ± 0.0000  2  0.7500 ± 0.0500  2     −0.0500    0.0500        –  too little: seeds without spread
 rte   RM-LoRA (R = 4)  train_loss  0.8000 ± 0.0500  2  0.8000 ± 0.0000  2      0.0000    0.0500        –  too little: seeds without spread";
    assert_eq!(text_table(&peer_cells(&comparison)), expected);
    assert_eq!(
        comparison.notes,
        ["rte, dora with seed 0: the peer's run has no counterpart of ours."]
    );
    // Two of P(|t| > 2) with two degrees of freedom, 0.18 each.
    assert_eq!(
        peer_findings(&comparison),
        [
            "1 of 2 differences between our means and the peer's are within two standard errors; with \
             so few seeds about 0.4 would not be, if both were the same.",
            "rte, LoRA (R = 4): train_loss 0.5500 ± 0.0500 here, 0.9500 ± 0.0500 there: lower by 5.7 \
             standard errors.",
            "Of 2 differences there is too little to say: fewer than two seeds on one side, or seeds \
             that all gave the same number.",
        ]
    );
    let svg = peer_figure(&comparison).unwrap().svg;
    for label in [
        "rte: Accuracy",
        "LoRA (R = 4)",
        "RM-LoRA (R = 4)",
        "rankwise",
        "peer",
    ] {
        assert!(svg.contains(&format!(">\n{label}\n<")), "{label}");
    }
    let table = peer_table(&comparison).unwrap();
    assert_eq!(
        table.texts("verdict").unwrap()[3],
        "too little: seeds without spread"
    );
    // Which of two R a peer means that states none is not known.
    let other = lora(5, [0.5, 0.6]);
    let mut summary = other.summary();
    summary.rank = Some(8);
    other.write_as(&runs.join("r8"), &other.config(), &summary);
    let all = TuningRuns::read(&runs).unwrap();
    let comparison = compare_with_peer(&all, &peer, &[]).unwrap();
    assert!(
        comparison
            .rows
            .iter()
            .all(|row| row.setting.method == "rm-lora")
    );
    let stated = PeerRun {
        rank: Some(8),
        ..peer[0].clone()
    };
    let comparison = compare_with_peer(&all, &[stated], &[]).unwrap();
    assert_eq!(comparison.rows[0].verdict, PeerVerdict::TooLittle);
}
