//! Whose classes the outputs of a head are. They are matched by name, never by number in silence.
//!
//! | the classes of the head | what becomes of it |
//! |---|---|
//! | the task's in the same order | it is used |
//! | the task's in another order (capitals do not count) | it is used, and the run has its order |
//! | others | a checkpoint's outputs are drawn from the seed; an adapter is refused |
//! | not named (`LABEL_0` or nothing), or the task's are numbers | it is used by number, and that is said |
//!
//! The names are those of `id2label` in a checkpoint's `config.json` and of `rankwise.json` beside an
//! adapter.
//!
//! Source: `run_glue.py` of huggingface/transformers, which uses a head of other classes by number.

use std::collections::BTreeMap;

use rankwise_analysis::Outputs;
use rankwise_data::first_names;

use super::beginning::Beginning;
use super::config::TuneConfig;
use super::data::{Source, TuneData};
use crate::Error;
use crate::model::{Head, Loaded, ModelConfig};

/// How the classes of a head are the task's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Match {
    Same,
    /// The output of each class of the task.
    Order(Vec<u32>),
    Others,
    /// The task's classes are numbers, which say nothing but an order.
    Numbers,
}

impl Match {
    pub fn of(task: &[String], head: &[String]) -> Self {
        let names = |names: &[String], of: fn(&str) -> String| -> Vec<String> {
            names.iter().map(|name| of(name.trim())).collect()
        };
        if task == head {
            return Self::Same;
        }
        for spelling in [str::to_owned, str::to_lowercase] {
            let (task, head) = (names(task, spelling), names(head, spelling));
            let once = |names: &[String], name: &String| {
                names.iter().filter(|other| *other == name).count() == 1
            };
            if task.len() == head.len()
                && head
                    .iter()
                    .all(|name| once(&head, name) && once(&task, name))
            {
                let place = |name| head.iter().position(|other| other == name);
                return match task.iter().map(|name| Some(place(name)? as u32)).collect() {
                    None => Self::Others,
                    Some(_) if task == head => Self::Same,
                    Some(order) => Self::Order(order),
                };
            }
        }
        let are_numbers = task
            .iter()
            .enumerate()
            .all(|(at, name)| *name == at.to_string());
        match are_numbers && task.len() == head.len() {
            true => Self::Numbers,
            false => Self::Others,
        }
    }
}

/// Brings the classes of the data and of the head together; returns what there is to say.
///
/// # Errors
/// [`Error::Model`] if the adapter's head is of other classes; [`Error::Analysis`] if what lies beside
/// it cannot be read.
pub(super) fn settle(
    config: &TuneConfig,
    model: &ModelConfig,
    data: &mut TuneData,
    loaded: &mut Loaded,
    mut beginning: Option<&mut Beginning>,
) -> Result<Option<String>, Error> {
    let Some(at) = loaded.output_layer() else {
        return Ok(None);
    };
    let declared = loaded.modules.declared();
    let name = &declared[at].name;
    let classes = first_names(&data.classes);
    if config.model.new_head {
        if let Some(beginning) = &mut beginning {
            beginning.leave_out(at, &declared);
        }
        loaded.redraw(at, config.seed, model.spread()?)?;
        return Ok(None);
    }
    if data.classes.is_empty() {
        return Ok(None);
    }
    let by_number = |whose: &str| {
        format!("{whose}: the outputs of its {name} were taken for {classes}, in this order")
    };
    let in_order = |whose: &str, head: &[String]| {
        let head = first_names(head);
        format!(
            "{whose} has the task's classes in another order, which this run's outputs have: {head}"
        )
    };
    if let Some(beginning) = beginning.filter(|beginning| beginning.has_weight_of(at, &declared)) {
        let Some(head) = beginning.outputs()? else {
            return Ok(Some(by_number(
                "nothing beside the adapter names its classes",
            )));
        };
        let head = head.classes();
        return match Match::of(&data.classes, head) {
            Match::Same => Ok(None),
            Match::Order(order) => {
                data.reorder(order);
                Ok(Some(in_order("the adapter", head)))
            }
            Match::Numbers => Ok(Some(by_number(&format!(
                "the adapter's classes are {}, the task's are numbers",
                first_names(head)
            )))),
            Match::Others => Err(Error::Model {
                path: beginning.file().with_file_name("rankwise.json"),
                what: "classes".to_owned(),
                expected: format!(
                    "the task's, {classes} (model.new_head = true leaves the adapter's head out)"
                ),
                found: first_names(head),
            }),
        };
    }
    if !loaded.has_weight_of(at) {
        return Ok(None);
    }
    let why = match model.classes() {
        Ok(None) => return Ok(Some(by_number("the checkpoint names no classes"))),
        Ok(Some(head)) => match Match::of(&data.classes, &head) {
            Match::Same => return Ok(None),
            Match::Order(order) => {
                data.reorder(order);
                return Ok(Some(in_order("the checkpoint", &head)));
            }
            Match::Numbers => {
                return Ok(Some(by_number(&format!(
                    "the checkpoint's classes are {}, the task's are numbers",
                    first_names(&head)
                ))));
            }
            Match::Others => format!("of other classes, {}", first_names(&head)),
        },
        Err(why) => format!("of unknown classes ({why} in config.json)"),
    };
    loaded.redraw(at, config.seed, model.spread()?)?;
    Ok(Some(format!(
        "not used of the checkpoint: its {name}, {why}"
    )))
}

impl TuneData {
    /// What the outputs of a head for the task are; `None` for a language model, whose are tokens.
    pub fn outputs(&self) -> Option<Outputs> {
        match self.head {
            Head::Classes(_) if self.classes.is_empty() => Some(Outputs::Score),
            Head::Classes(_) => Some(Outputs::Classes {
                classes: self.classes.clone(),
            }),
            Head::Span => Some(Outputs::Span),
            Head::NextToken => None,
        }
    }

    /// What is to be said of classes that are there only in part.
    pub fn class_notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let seen = |source: &Source| {
            let mut seen = vec![false; self.classes.len()];
            for class in source.classes() {
                if let Some(seen) = seen.get_mut(class as usize) {
                    *seen = true;
                }
            }
            seen
        };
        let of = |seen: &[bool], wanted: bool| -> Vec<String> {
            let named = self.classes.iter().zip(seen);
            let named = named.filter(|(_, seen)| **seen == wanted);
            named.map(|(name, _)| name.clone()).collect()
        };
        let trained = seen(&self.train);
        let missing = of(&trained, false);
        if !missing.is_empty() && !self.classes.is_empty() {
            notes.push(format!(
                "no training example of the classes {}",
                first_names(&missing)
            ));
        }
        let mut lower = BTreeMap::new();
        for name in &self.classes {
            if let Some(before) = lower.insert(name.to_lowercase(), name) {
                notes.push(format!(
                    "the classes {before} and {name} differ in capitals only"
                ));
            }
        }
        let sets = self
            .evaluated
            .iter()
            .map(|set| (set.name.as_str(), &set.source));
        for (name, source) in [("train", &self.train)].into_iter().chain(sets) {
            let seen = seen(source);
            if let [only] = of(&seen, true).as_slice() {
                notes.push(format!("{name}: every example is of the class {only}"));
            }
            let untrained = seen
                .iter()
                .zip(&trained)
                .map(|(seen, trained)| *seen && !trained);
            let untrained = of(&untrained.collect::<Vec<_>>(), true);
            if !untrained.is_empty() {
                notes.push(format!(
                    "{name}: examples of classes that no training example has: {}",
                    first_names(&untrained)
                ));
            }
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_matched_by_name() {
        let names =
            |names: &[&str]| -> Vec<String> { names.iter().map(|&n| n.to_owned()).collect() };
        let nli = ["entailment", "neutral", "contradiction"];
        for (task, head, found) in [
            (&nli[..], &nli[..], Match::Same),
            (
                &nli,
                &["CONTRADICTION", "NEUTRAL", "ENTAILMENT"],
                Match::Order(vec![2, 1, 0]),
            ),
            (
                &nli,
                &["Entailment", "Neutral", "Contradiction"],
                Match::Same,
            ),
            (&nli, &["joy", "anger", "fear"], Match::Others),
            (&nli, &["entailment", "neutral"], Match::Others),
            (&nli, &["entailment", "neutral", "neutral"], Match::Others),
            // Capitals count where they are all that tells two classes apart.
            (&["us", "US"], &["US", "us"], Match::Order(vec![1, 0])),
            (&["us", "US"], &["Us", "uS"], Match::Others),
            (&["0", "1"], &["negative", "positive"], Match::Numbers),
            (&["1", "0"], &["0", "1"], Match::Order(vec![1, 0])),
            (&["1", "2"], &["negative", "positive"], Match::Others),
        ] {
            assert_eq!(
                Match::of(&names(task), &names(head)),
                found,
                "{task:?} {head:?}"
            );
        }
    }
}
