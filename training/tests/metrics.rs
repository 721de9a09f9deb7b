//! Metrics against the benchmarks' own programs (`training/reference/metric_reference.py`), and what
//! holds for every input.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rankwise_data::GlueTask;
use rankwise_training::{
    AnswerOptions, AnswerWindow, Error, GoldAnswers, Metric, accuracy, answer_f1, best_answers,
    chosen_answer, evaluate_answers, f1, glue_metrics, is_exact_match, matthews, normalized_answer,
    pearson,
};
use serde::Deserialize;

/// Both sides round a handful of operations: counts are exact, sums of 300 products are not.
const ROUNDING: f64 = 1e-14;

#[derive(Deserialize)]
struct Reference {
    classification: Vec<Classes>,
    correlation: Vec<Scores>,
    squad: Squad,
    characters: Characters,
    spans: Vec<Spans>,
    squad_dev: SquadDev,
}

#[derive(Deserialize)]
struct Classes {
    predictions: Vec<u32>,
    labels: Vec<u32>,
    accuracy: f64,
    f1: Option<f64>,
    matthews: f64,
}

#[derive(Deserialize)]
struct Scores {
    predictions: Vec<f64>,
    labels: Vec<f64>,
    pearson: Option<f64>,
    spearman: Option<f64>,
}

#[derive(Deserialize)]
struct Squad {
    answers: Vec<One>,
    everybody: String,
}

#[derive(Deserialize)]
struct One {
    prediction: String,
    golds: Vec<String>,
    normalized: String,
    exact: bool,
    f1: f64,
}

#[derive(Deserialize)]
struct Characters {
    unicode: String,
    blocks: Vec<Block>,
}

#[derive(Deserialize)]
struct Block {
    runs: Vec<(u32, u32)>,
    sha256: String,
}

#[derive(Deserialize)]
struct Spans {
    context: String,
    windows: Vec<Window>,
    n_best: usize,
    longest: usize,
    chosen: String,
    answers: Vec<(String, f32)>,
}

/// A token's first character and the one behind its last; none outside the context.
type Characters2 = Option<(usize, usize)>;

#[derive(Deserialize)]
struct Window {
    start: Vec<f32>,
    end: Vec<f32>,
    offsets: Vec<Characters2>,
}

#[derive(Deserialize)]
struct SquadDev {
    exact_match: f64,
    f1: f64,
}

fn reference() -> Reference {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/metrics.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn close(ours: Option<f64>, theirs: Option<f64>) -> bool {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) => (ours - theirs).abs() <= ROUNDING,
        (None, None) => true,
        _ => false,
    }
}

#[test]
fn classification_is_that_of_scikit_learn() {
    for row in reference().classification {
        let (p, y) = (&row.predictions, &row.labels);
        assert_eq!(accuracy(p, y).unwrap(), row.accuracy, "{p:?} {y:?}");
        assert!(close(f1(p, y).ok(), row.f1), "{p:?} {y:?}");
        let ours = matthews(p, y).unwrap();
        assert!(close(Some(ours), Some(row.matthews)), "{p:?} {y:?}: {ours}");
    }
}

#[test]
fn correlation_is_that_of_scipy() {
    for row in reference().correlation {
        let (x, y) = (&row.predictions, &row.labels);
        let ours = Metric::Pearson.of_scores(x, y).unwrap();
        assert!(close(ours, row.pearson), "{x:?} {y:?}: {ours:?}");
        let ours = Metric::Spearman.of_scores(x, y).unwrap();
        assert!(close(ours, row.spearman), "{x:?} {y:?}: {ours:?}");
    }
}

#[test]
fn answers_are_judged_as_by_the_official_script() {
    let squad = reference().squad;
    for one in &squad.answers {
        let (answer, golds) = (&one.prediction, &one.golds);
        assert_eq!(normalized_answer(answer), one.normalized, "{answer:?}");
        assert_eq!(is_exact_match(answer, golds), one.exact, "{answer:?}");
        // The same operations in the same order: the same bits.
        assert_eq!(answer_f1(answer, golds), one.f1, "{answer:?} {golds:?}");
    }
    let mut lines = String::new();
    for answer in &squad.answers {
        for gold in &squad.answers {
            let golds = &gold.golds[..1];
            let exact = u8::from(is_exact_match(&answer.prediction, golds));
            let bits = answer_f1(&answer.prediction, golds).to_bits();
            lines += &format!("{exact} {bits:016x}\n");
        }
    }
    assert_eq!(rankwise_data::sha256_hex(lines.as_bytes()), squad.everybody);
}

#[test]
fn every_character_is_normalised_as_python_does() {
    let characters = reference().characters;
    let mut seen = 0;
    for block in &characters.blocks {
        let mut text = String::new();
        let all = block.runs.iter().flat_map(|&(from, to)| from..to);
        for c in all.map(|c| char::from_u32(c).unwrap()) {
            text += &normalized_answer(&format!("x{c}the an{c} {c}a{c}y"));
            text.push('\n');
            seen += 1;
        }
        let (runs, unicode) = (&block.runs, &characters.unicode);
        let ours = rankwise_data::sha256_hex(text.as_bytes());
        assert_eq!(ours, block.sha256, "{runs:x?} of Unicode {unicode}");
    }
    assert!(seen > 140_000, "{seen}");
}

#[test]
fn answers_are_chosen_as_by_the_example() {
    for row in reference().spans {
        let bytes: Vec<usize> = row
            .context
            .char_indices()
            .map(|(byte, _)| byte)
            .chain([row.context.len()])
            .collect();
        let offsets: Vec<Vec<_>> = row
            .windows
            .iter()
            .map(|window| {
                let of = |(from, to): (usize, usize)| (bytes[from], bytes[to]);
                window.offsets.iter().map(|pair| pair.map(of)).collect()
            })
            .collect();
        let windows: Vec<_> = row
            .windows
            .iter()
            .zip(&offsets)
            .map(|(window, offsets)| AnswerWindow {
                start: &window.start,
                end: &window.end,
                offsets,
            })
            .collect();
        let options = AnswerOptions {
            n_best: row.n_best,
            longest: row.longest,
        };
        let ours = best_answers(&row.context, &windows, options).unwrap();
        assert_eq!(chosen_answer(&ours), row.chosen, "{}", row.context);
        let ours: Vec<_> = ours.iter().map(|a| (a.text.to_owned(), a.score)).collect();
        // Their list begins with the stand-in where there is one.
        let stand_ins = row.answers.len() - ours.len();
        assert!(stand_ins == 0 || row.chosen == "empty");
        assert_eq!(ours, row.answers[stand_ins..], "{}", row.context);
    }
}

/// `data/squad` of the folder that `RANKWISE_SHARED` names, or of `shared` beside the repository.
fn squad_dev() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = std::env::var_os("RANKWISE_SHARED").map_or_else(beside, PathBuf::from);
    let path = shared.join("data/squad/dev-v1.1.json");
    if path.is_file() {
        return Some(path);
    }
    eprintln!("skipped: no file {}", path.display());
    None
}

#[test]
fn the_development_set_scores_as_by_the_official_script() {
    let Some(path) = squad_dev() else { return };
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let list = |value: &serde_json::Value, key: &str| value[key].as_array().unwrap().clone();
    let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap().to_owned();
    let questions: Vec<_> = list(&json, "data")
        .iter()
        .flat_map(|article| list(article, "paragraphs"))
        .flat_map(|paragraph| list(&paragraph, "qas"))
        .map(|qa| {
            let texts = list(&qa, "answers")
                .iter()
                .map(|a| text(a, "text"))
                .collect();
            let id = text(&qa, "id");
            (text(&qa, "question"), GoldAnswers { id, texts })
        })
        .collect();
    let mut answers = BTreeMap::new();
    for (i, (question, gold)) in questions.iter().enumerate() {
        let last = gold.texts.last().unwrap();
        let answer = match i % 5 {
            0 => last.to_uppercase(),
            1 => format!("The {}!", last.split(' ').next().unwrap()),
            2 => questions[(i + 1) % questions.len()].1.texts[0].clone(),
            3 => question.clone(),
            _ => continue,
        };
        answers.insert(gold.id.clone(), answer);
    }
    let gold: Vec<_> = questions.into_iter().map(|(_, gold)| gold).collect();
    let scores = evaluate_answers(&gold, &answers).unwrap();
    assert_eq!((scores.questions, scores.unanswered), (10_570, 2_114));
    let theirs = reference().squad_dev;
    // Sums of the same numbers in the same order.
    assert_eq!(scores.exact_match, theirs.exact_match);
    assert_eq!(scores.f1, theirs.f1);
}

#[test]
fn lists_that_are_no_pairs_are_refused() {
    for (metric, result) in [
        ("accuracy", accuracy(&[], &[])),
        ("f1", f1(&[1], &[1, 0])),
        ("matthews", matthews(&[1, 0], &[1])),
        ("pearson", pearson(&[], &[]).map(Option::unwrap)),
        (
            "spearman",
            Metric::Spearman.of_scores(&[1.0], &[]).map(Option::unwrap),
        ),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("metric {metric}: expected")),
            "{error}"
        );
    }
    let error = f1(&[0, 3], &[0, 1]).unwrap_err().to_string();
    assert_eq!(
        error,
        "metric f1: expected the classes 0 and 1, found class 3"
    );
    let nobody = [GoldAnswers {
        id: "q7".to_owned(),
        texts: Vec::new(),
    }];
    let error = evaluate_answers(&nobody, &BTreeMap::new()).unwrap_err();
    assert!(
        error.to_string().ends_with("found none of question q7"),
        "{error}"
    );
    assert!(evaluate_answers(&[], &BTreeMap::new()).is_err());
}

#[test]
fn what_is_not_finite_has_no_correlation() {
    for bad in [f64::NAN, f64::INFINITY] {
        assert_eq!(pearson(&[1.0, bad, 2.0], &[1.0, 2.0, 3.0]).unwrap(), None);
    }
    let nan = [1.0, f64::NAN, 2.0];
    assert_eq!(
        Metric::Spearman.of_scores(&nan, &[1.0, 2.0, 3.0]).unwrap(),
        None
    );
    assert_eq!(pearson(&[1.0], &[1.0]).unwrap(), None);
}

#[test]
fn windows_that_cannot_be_read_are_refused() {
    let options = AnswerOptions::default();
    let refused = |start: &[f32], end: &[f32], offsets: &[Characters2]| {
        let window = AnswerWindow {
            start,
            end,
            offsets,
        };
        match best_answers("h\u{e9}", &[window], options) {
            Err(error @ Error::Answer { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        refused(&[0.0, 1.0], &[0.0], &[]),
        "answer: number of ends: expected 2, as many as starts, found 1"
    );
    refused(&[0.0], &[0.0], &[None, None]);
    refused(&[f32::NAN], &[0.0], &[Some((0, 1))]);
    refused(&[0.0], &[f32::INFINITY], &[Some((0, 1))]);
    // In the middle of a character, beyond the end, backwards.
    for offsets in [(0, 2), (0, 4), (1, 0)] {
        refused(&[0.0], &[0.0], &[Some(offsets)]);
    }
    // Minus infinity says never, and tokens beyond the offsets are outside the context.
    let (start, end) = ([f32::NEG_INFINITY, 0.0], [0.0, f32::NEG_INFINITY]);
    let window = AnswerWindow {
        start: &start,
        end: &end,
        offsets: &[Some((0, 1))],
    };
    assert_eq!(
        best_answers("h\u{e9}", &[window], options).unwrap().len(),
        1
    );
}

#[test]
fn every_glue_task_is_decided_by_a_metric_of_its_own_list() {
    for task in GlueTask::ALL {
        // The metrics of a task are of one kind of prediction.
        let classes = |metric: &Metric| metric.of_classes(&[0, 1], &[0, 1]).is_ok();
        let metrics = glue_metrics(task);
        assert!(!metrics.is_empty());
        assert!(
            metrics
                .iter()
                .all(|metric| classes(metric) != task.is_regression())
        );
    }
}

fn classes() -> impl Strategy<Value = Vec<(u32, u32)>> {
    prop::collection::vec((0..3_u32, 0..3_u32), 1..60)
}

proptest! {
    /// Matthews' is Pearson's correlation of two classes as numbers.
    #[test]
    fn matthews_of_two_classes_is_pearson(pairs in prop::collection::vec((0..2_u32, 0..2_u32), 1..60)) {
        let (p, y): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let numbers = |list: &[u32]| list.iter().map(|&c| f64::from(c)).collect::<Vec<_>>();
        let expected = pearson(&numbers(&p), &numbers(&y)).unwrap().unwrap_or(0.0);
        prop_assert!((matthews(&p, &y).unwrap() - expected).abs() < ROUNDING);
    }

    #[test]
    fn classification_does_not_depend_on_names_and_order(pairs in classes(), by in 0..60_usize) {
        let (p, y): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
        let mut turned = pairs.clone();
        turned.rotate_left(by % pairs.len());
        let rename = |class: u32| [901, 5, 77][class as usize];
        let (q, z): (Vec<_>, Vec<_>) =
            turned.into_iter().map(|(p, y)| (rename(p), rename(y))).unzip();
        prop_assert_eq!(accuracy(&p, &y).unwrap(), accuracy(&q, &z).unwrap());
        prop_assert_eq!(matthews(&p, &y).unwrap(), matthews(&q, &z).unwrap());
        // Either side may be called the prediction.
        prop_assert_eq!(matthews(&p, &y).unwrap(), matthews(&y, &p).unwrap());
        prop_assert!(matthews(&p, &y).unwrap().abs() <= 1.0);
    }

    #[test]
    fn pearson_knows_no_scale_and_no_origin(
        pairs in prop::collection::vec((-100..100_i32, -100..100_i32), 2..60),
        scale in -12..12_i32,
        origin in -100..100_i32,
    ) {
        let (x, y): (Vec<_>, Vec<_>) =
            pairs.into_iter().map(|(x, y)| (f64::from(x), f64::from(y))).unzip();
        let moved: Vec<_> = x.iter().map(|x| (x + f64::from(origin)) * 2_f64.powi(scale)).collect();
        let (one, other) = (pearson(&x, &y).unwrap(), pearson(&moved, &y).unwrap());
        prop_assert_eq!(one.is_some(), other.is_some());
        if let (Some(one), Some(other)) = (one, other) {
            // Sums of integers and their deviations lose at most their size over that of the
            // deviations: 200 here, times 60 terms.
            prop_assert!((one - other).abs() < 1e-12);
        }
    }

    #[test]
    fn a_normalised_answer_stays_itself_and_matches(text in "\\PC{0,40}", spaces in "[ \u{a0}\u{1c}\n]{0,3}") {
        let once = normalized_answer(&text);
        prop_assert!(once.split(' ').all(|word| !["a", "an", "the"].contains(&word)));
        let dressed = format!("{spaces}{once}{spaces} the.");
        prop_assert!(is_exact_match(&dressed, &[&text]), "{:?} {:?}", text, dressed);
        let f1 = answer_f1(&dressed, &[&text]);
        prop_assert_eq!(f1, if once.is_empty() { 0.0 } else { 1.0 });
    }

    #[test]
    fn f1_of_answers_is_symmetric_and_at_most_1(x in "[ab ]{0,12}", y in "[ab ]{0,12}") {
        let one = answer_f1(&x, &[&y]);
        prop_assert!((one - answer_f1(&y, &[&x])).abs() < ROUNDING);
        prop_assert!((0.0..=1.0 + ROUNDING).contains(&one));
        // A further gold answer never makes it worse.
        prop_assert!(answer_f1(&x, &[&y, &x]) >= one);
    }

    /// Against all pairs of one window, without any shortlist.
    #[test]
    fn the_best_answer_is_the_best_of_all_pairs(
        logits in prop::collection::vec((-9..9_i8, -9..9_i8), 1..20),
        outside in 0..4_usize,
        longest in 1..8_usize,
    ) {
        let context = "x".repeat(logits.len());
        let start: Vec<f32> = logits.iter().map(|&(s, _)| f32::from(s)).collect();
        let end: Vec<f32> = logits.iter().map(|&(_, e)| f32::from(e)).collect();
        let offsets: Vec<_> =
            (0..logits.len()).map(|t| (t >= outside).then_some((t, t + 1))).collect();
        let window = AnswerWindow { start: &start, end: &end, offsets: &offsets };
        let options = AnswerOptions { n_best: 20, longest };
        let found = best_answers(&context, &[window], options).unwrap();
        let pairs = (outside..logits.len())
            .flat_map(|s| (s..(s + longest).min(logits.len())).map(move |e| (s, e)));
        let expected = pairs.map(|(s, e)| start[s] + end[e]).reduce(f32::max);
        prop_assert_eq!(found.first().map(|answer| answer.score), expected);
        if let Some(best) = found.first() {
            prop_assert!(best.offset >= outside && best.text.len() <= longest);
        }
        prop_assert!(found.is_sorted_by(|x, y| x.score >= y.score));
    }
}
