//! A model's outputs against what they should have been.

use candle_core::{DType, Device, Tensor};
use rankwise_data::{Question, SkipBad, Window};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::Tuned;
use super::batch::{Batch, Item, Target};
use super::data::{Evaluated, Judged};
use crate::Error;
use crate::engine::loss::loss;
use crate::metric::{
    AnswerOptions, AnswerWindow, GoldAnswers, Metric, best_answers, chosen_answer, evaluate_answers,
};

/// What a set's evaluation gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Which set: `validation`, `mismatched`, `train`.
    pub set: String,
    /// Mean loss.
    pub loss: f64,
    /// The metrics by their keys, the deciding one first; `None` where one is not defined.
    pub metrics: Vec<(String, Option<f64>)>,
}

/// Evaluates a set in batches of `size`, which change nothing but the time; `order` has the output of
/// each class, where it is not the class's own number.
pub(super) fn evaluate(
    tuned: &Tuned,
    set: &Evaluated,
    order: Option<&[u32]>,
    skip: &mut SkipBad,
    size: usize,
    dtype: DType,
    device: &Device,
) -> Result<Scores, Error> {
    let count = set.source.len();
    let mut outputs: Vec<Vec<f32>> = Vec::with_capacity(count);
    let mut targets = Vec::with_capacity(count);
    let (mut total, mut counted) = (0.0, 0);
    for start in (0..count).step_by(size) {
        let end = count.min(start.saturating_add(size));
        let mut items = Vec::with_capacity(end - start);
        for index in start..end {
            items.extend(skip.take(set.source.item(index, None))?);
        }
        let batch = Batch::new(&items, !device.is_cpu(), dtype, device)?;
        let results = tuned.outputs(&batch)?;
        for (part, result) in batch.parts.iter().zip(&results) {
            total += loss(result, &part.targets, &part.inputs.lengths, 1)?.value;
        }
        counted += batch.items;
        // Of a language model only the loss is looked at.
        if !matches!(
            items.first().map(|item| item.target),
            Some(Target::NextToken)
        ) {
            split(&items, &results, &mut outputs)?;
        }
        targets.extend(items.iter().map(|item| item.target));
    }
    let loss = total / counted.max(1) as f64;
    let metrics = match &set.judged {
        Judged::Outputs(metrics) if metrics.as_slice() == [Metric::Loss] => {
            vec![(Metric::Loss, Some(loss))]
        }
        Judged::Outputs(metrics) => judge(metrics, &outputs, &targets, order)?,
        Judged::Answers { questions, windows } => answers(questions, windows, &outputs)?,
    };
    let metrics = metrics
        .into_iter()
        .map(|(metric, value)| (metric.key().to_owned(), value));
    Ok(Scores {
        set: set.name.clone(),
        loss,
        metrics: metrics.collect(),
    })
}

/// The outputs of every item: one row for classes, one a token for spans.
fn split(items: &[Item], results: &[Tensor], outputs: &mut Vec<Vec<f32>>) -> Result<(), Error> {
    let mut rows = Vec::new();
    for result in results {
        rows.extend(result.to_dtype(DType::F32)?.to_vec2::<f32>()?);
    }
    let mut rows = rows.into_iter();
    for item in items {
        let count = match item.target {
            Target::Class(_) | Target::Value(_) => 1,
            Target::Span(..) | Target::NextToken => item.ids.len(),
        };
        outputs.push(rows.by_ref().take(count).flatten().collect());
    }
    Ok(())
}

fn judge(
    metrics: &[Metric],
    outputs: &[Vec<f32>],
    targets: &[Target],
    order: Option<&[u32]>,
) -> Result<Vec<(Metric, Option<f64>)>, Error> {
    if let Some(Target::Value(_)) = targets.first() {
        let predicted: Vec<_> = outputs.iter().map(|row| f64::from(row[0])).collect();
        let known: Vec<_> = targets
            .iter()
            .map(|target| match target {
                Target::Value(value) => f64::from(*value),
                _ => f64::NAN,
            })
            .collect();
        return metrics
            .iter()
            .map(|metric| Ok((*metric, metric.of_scores(&predicted, &known)?)))
            .collect();
    }
    // F₁ is that of the task's second class, whichever output it is.
    let class = |output: u32| {
        let place = order.and_then(|order| order.iter().position(|place| *place == output));
        place.map_or(output, |class| class as u32)
    };
    let predicted: Vec<_> = outputs.iter().map(|row| class(largest(row))).collect();
    let known: Vec<_> = targets
        .iter()
        .map(|target| match target {
            Target::Class(output) => class(*output),
            _ => u32::MAX,
        })
        .collect();
    metrics
        .iter()
        .map(|metric| Ok((*metric, Some(metric.of_classes(&predicted, &known)?))))
        .collect()
}

/// The first of the largest.
fn largest(row: &[f32]) -> u32 {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best as u32
}

fn answers(
    questions: &[Question],
    windows: &[(usize, Window)],
    outputs: &[Vec<f32>],
) -> Result<Vec<(Metric, Option<f64>)>, Error> {
    let mut given = BTreeMap::new();
    let mut at = 0;
    for (index, question) in questions.iter().enumerate() {
        // Bytes at which the context's characters begin, and its end.
        let mut bytes: Vec<_> = question
            .context
            .char_indices()
            .map(|(byte, _)| byte)
            .collect();
        bytes.push(question.context.len());
        let mut scores = Vec::new();
        while let Some((owner, window)) = windows.get(at)
            && *owner == index
        {
            let logits = &outputs[at];
            let start: Vec<f32> = logits.iter().step_by(2).copied().collect();
            let end: Vec<f32> = logits.iter().skip(1).step_by(2).copied().collect();
            let tokens = window
                .encoding
                .offsets
                .iter()
                .zip(&window.encoding.sequence);
            let offsets: Vec<_> = tokens
                .map(|((from, to), sequence)| {
                    (*sequence == Some(1)).then(|| (bytes[*from], bytes[*to]))
                })
                .collect();
            scores.push((start, end, offsets));
            at += 1;
        }
        let windows: Vec<_> = scores
            .iter()
            .map(|(start, end, offsets)| AnswerWindow {
                start,
                end,
                offsets,
            })
            .collect();
        let best = best_answers(&question.context, &windows, AnswerOptions::default())?;
        given.insert(question.id.clone(), chosen_answer(&best).to_owned());
    }
    let gold: Vec<_> = questions
        .iter()
        .map(|question| GoldAnswers {
            id: question.id.clone(),
            texts: question
                .answers
                .iter()
                .map(|answer| answer.text.clone())
                .collect(),
        })
        .collect();
    let scores = evaluate_answers(&gold, &given)?;
    Ok(vec![
        (Metric::ExactMatch, Some(scores.exact_match)),
        (Metric::AnswerF1, Some(scores.f1)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two of three predictions of the second class are right, of four that are of it: F₁ = 4/7. A head
    /// with the classes the other way round changes nothing.
    #[test]
    fn metrics_are_of_the_tasks_classes() {
        let predicted = [1, 1, 1, 0, 0, 0];
        let known = [1, 1, 0, 1, 1, 0];
        let row = |class: u32| {
            if class == 1 {
                vec![0.0, 1.0]
            } else {
                vec![1.0, 0.0]
            }
        };
        let judged = |order: Option<&[u32]>| {
            let place = |class: u32| order.map_or(class, |order| order[class as usize]);
            let outputs: Vec<_> = predicted.map(|class| row(place(class))).to_vec();
            let targets = known.map(|class| Target::Class(place(class)));
            judge(&[Metric::F1, Metric::Accuracy], &outputs, &targets, order).unwrap()
        };
        let plain = judged(None);
        assert!((plain[0].1.unwrap() - 4.0 / 7.0).abs() < 1e-12, "{plain:?}");
        assert_eq!(judged(Some(&[1, 0])), plain);
    }
}
