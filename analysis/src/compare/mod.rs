//! Adapters beside one another: which directions two updates of one module share, how far they lie
//! apart, what an update does to the weight, and how checkpoints of one run drift.
//!
//! | room | what is in it |
//! |---|---|
//! | [`subspace`] | φ, principal angles and what chance gives |
//! | [`directions`] | an update's singular vectors; cosine and distance of two updates |
//! | [`weight`] | amplification and intruder dimensions, with the base model's weight |
//! | [`record`] | what is found, as rows |
//!
//! Modules are gone through one by one, several at a time on several threads: of each, the directions
//! are read from every adapter that has it, all pairs are compared, and the directions are let go. So
//! memory stays at a few modules of all adapters, and no number depends on how many threads there are.

mod directions;
mod record;
mod subspace;
mod weight;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::adapter::{Adapter, Beside, Module};
use crate::alignment::Alignment;
use crate::audit::{Candidate, Epoch, candidates, first_number, natural_order, role};
use crate::{Error, RefusalClass, Refused};
use directions::{Directions, cosine, distance};
pub use record::{
    Apart, ComparedAdapter, Comparison, Grid, Likeness, PairRecord, SideRecord, Similarity,
    UpdateRecord,
};
pub use subspace::{ChanceSimilarity, principal_angles, subspace_similarity};
use subspace::{angles_of, similarity_of};
use weight::Weight;
pub use weight::{AgainstWeight, Amplification, Intruder, IntruderRule};

/// Choices of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct CompareOptions {
    /// The base model's checkpoint, a folder or file: for amplification and intruder dimensions, and
    /// for formats whose update needs it.
    pub base: Option<PathBuf>,
    /// The adapter as it was before training, where its initialisation changed the base (PiSSA and
    /// its kin): it is taken away from every one that is compared.
    pub initial: Option<PathBuf>,
    /// The values of i and j for which φ(i, j) is kept.
    pub grid: GridChoice,
    /// The rank at which many adapters are compared by φ.
    pub rank: usize,
    /// What counts as an intruder dimension.
    pub intruders: IntruderRule,
    /// Whether the adapters are checkpoints of one run: each is compared with the one before it and
    /// with the last, in the order of their steps, instead of all with all.
    pub over_time: bool,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self {
            base: None,
            initial: None,
            grid: GridChoice::UpTo(64),
            rank: 4,
            intruders: IntruderRule::default(),
            over_time: false,
        }
    }
}

/// The values of i and j at which φ(i, j) is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GridChoice {
    /// All, up to a number of directions.
    UpTo(usize),
    /// These, ascending.
    Listed(Vec<usize>),
}

impl GridChoice {
    fn values(&self, rank: usize) -> Vec<usize> {
        match self {
            Self::UpTo(most) => (1..=rank.min(*most)).collect(),
            Self::Listed(values) => values.iter().copied().filter(|&v| v <= rank).collect(),
        }
    }
}

impl CompareOptions {
    fn check(&self) -> Result<(), Error> {
        let wrong = |what, expected: &str, found: String| {
            Err(Error::Mismatch {
                what,
                expected: expected.to_owned(),
                found,
            })
        };
        if self.rank == 0 {
            return wrong("rank of the comparison", "1 or more", "0".to_owned());
        }
        let rule = self.intruders;
        if rule.k == 0 {
            return wrong(
                "directions searched for intruders",
                "1 or more",
                "0".to_owned(),
            );
        }
        if !(rule.epsilon > 0.0 && rule.epsilon <= 1.0) {
            let expected = "above 0 and at most 1";
            return wrong("cosine of an intruder", expected, rule.epsilon.to_string());
        }
        if let GridChoice::Listed(values) = &self.grid {
            let ascends = values.windows(2).all(|pair| pair[0] < pair[1]);
            if values.first().is_none_or(|&least| least == 0) || !ascends {
                let expected = "numbers from 1 on, ascending";
                return wrong("directions", expected, format!("{values:?}"));
            }
        }
        Ok(())
    }
}

/// Compares the adapters at `paths`, each a file, a folder, a pattern or an id as for
/// [`audit`](crate::audit()); one path with several adapters will do. `progress` is told how many
/// modules there are and called after each.
///
/// A module is compared where two adapters have it under one name and in one shape; every other is
/// listed in [`Comparison::apart`]. Files that are no adapters are listed in [`Comparison::refused`].
///
/// ```
/// use rankwise_analysis::{CompareOptions, compare};
/// # use rankwise_analysis::PeftAdapter;
/// # let folder = tempfile::tempdir()?;
/// # let (one, other) = (&folder.path().join("one"), &folder.path().join("other"));
/// # for (path, b) in [(one, [2.0, 0.0]), (other, [3.0, 4.0])] {
/// #     PeftAdapter {
/// #         module: "q".to_owned(), rank: 1, inputs: 2, outputs: 2, alpha: 1.0,
/// #         a: vec![1.0, 0.0], b: b.to_vec(), bias: None,
/// #     }.write(path)?;
/// # }
/// // One update points to (1, 0), the other to (3/5, 4/5), from the same input.
/// let found = compare(&[one, other], &CompareOptions::default(), |_, _| {})?;
/// let module = &found.pairs[0];
/// let (left, right) = (module.left.as_ref().unwrap(), module.right.as_ref().unwrap());
/// assert!((left.top.phi - 0.36).abs() < 1e-14 && right.top.phi == 1.0);
/// assert!((left.angles[0] - 0.8_f64.asin()).abs() < 1e-14);
/// assert!((module.cosine.unwrap() - 0.6).abs() < 1e-14);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::File`] if there is nothing at a path, the base model or the initial adapter cannot be
/// opened, fewer than two adapters are found or no two share a module; [`Error::Mismatch`] for options out of their range.
pub fn compare<P: AsRef<Path>>(
    paths: &[P],
    options: &CompareOptions,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<Comparison, Error> {
    options.check()?;
    let (mut adapters, mut refused, mut notes) = opened(paths, options)?;
    if options.over_time {
        let paths: Vec<_> = adapters.iter().map(|one| one.record.path.clone()).collect();
        for (one, step) in adapters.iter_mut().zip(steps(&paths)) {
            one.record.step = step;
        }
        // A stable sort: checkpoints without a number stay where they were, after the others.
        adapters.sort_by_key(|one| one.record.step.unwrap_or(u64::MAX));
    }
    notes.extend(align(&mut adapters));
    let (groups, mut apart) = shared(&adapters);
    if groups.is_empty() {
        let path = Path::new(&adapters[0].record.path);
        let others: Vec<_> = adapters[1..]
            .iter()
            .map(|a| a.record.path.as_str())
            .collect();
        let expected = format!("one of the name and shape of one in {}", others.join(", "));
        let found = match apart.first() {
            Some(first) => format!("none; {}: {}", first.module, first.reason),
            None => "none".to_owned(),
        };
        return Err(Error::format(path, "modules", expected, found));
    }
    let places = pairs(adapters.len(), options.over_time);
    let (total, done) = (groups.len(), AtomicUsize::new(0));
    let results: Vec<_> = groups
        .par_iter()
        .map(|group| {
            let result = of_group(group, &adapters, &places, options);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            result
        })
        .collect();
    let mut comparison = Comparison {
        rank: options.rank,
        intruder_rule: options.intruders,
        updates: Vec::new(),
        pairs: Vec::new(),
        apart: Vec::new(),
        refused: Vec::new(),
        notes,
        adapters: adapters.into_iter().map(|one| one.record).collect(),
    };
    for mut result in results {
        comparison.updates.append(&mut result.updates);
        comparison.pairs.append(&mut result.pairs);
        apart.append(&mut result.apart);
    }
    refused.sort_by(|x, y| natural_order(&x.path, &y.path));
    comparison.apart = apart;
    comparison.refused = refused;
    Ok(comparison)
}

/// An adapter, and what is said of it.
struct Opened {
    adapter: Adapter,
    record: ComparedAdapter,
}

/// The adapters, what of them is refused, and what there is to say.
type AllOpened = (Vec<Opened>, Vec<Refused>, Vec<String>);

fn opened<P: AsRef<Path>>(paths: &[P], options: &CompareOptions) -> Result<AllOpened, Error> {
    let (mut adapters, mut refused, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let beside = Beside::open(options.base.as_deref(), options.initial.as_deref())?;
    let found = |epoch| -> Result<Vec<Candidate>, Error> {
        let found = paths.iter().map(|path| candidates(path.as_ref(), epoch));
        let found: Vec<_> = found.collect::<Result<_, _>>()?;
        Ok(found.into_iter().flat_map(|f| f.candidates).collect())
    };
    // Of one run the best epoch is a checkpoint like another.
    let candidates = match (options.over_time, found(Epoch::Last)?) {
        (false, several) if several.len() > 1 => several,
        _ => found(Epoch::Every)?,
    };
    for candidate in candidates {
        let remark = candidate.remark();
        let Candidate { file, path, .. } = candidate;
        let shown = path.display().to_string();
        let mut refuse = |name: String, reason: String, class| {
            refused.push(Refused {
                path: shown.clone(),
                name,
                reason,
                class,
            });
        };
        let name = || {
            file.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        let adapter = match Adapter::open(&file, &beside) {
            Ok(Some(adapter)) => adapter,
            Ok(None) => {
                let reason = "no adapter: no tensor is part of one".to_owned();
                refuse(name(), reason, RefusalClass::NoAdapter);
                continue;
            }
            Err(error) => {
                refuse(name(), error.to_string(), RefusalClass::of_file(&file));
                continue;
            }
        };
        for (name, reason) in &adapter.contents.refused {
            let class = adapter.contents.class_of(name);
            refuse(name.clone(), reason.clone(), class);
        }
        let remarks = remark
            .into_iter()
            .chain(adapter.contents.copies.described());
        notes.extend(remarks.map(|remark| format!("{shown}: {remark}")));
        if adapter.contents.modules.is_empty() {
            continue;
        }
        let record = ComparedAdapter {
            format: adapter.format.name().to_string(),
            base_model: adapter.base_model.clone(),
            modules: adapter.contents.modules.len(),
            step: None,
            path: shown,
        };
        adapters.push(Opened { adapter, record });
    }
    if adapters.len() < 2 {
        let path = paths.first().map_or(Path::new(""), AsRef::as_ref);
        let found = match (adapters.len(), refused.first()) {
            (count, Some(first)) => {
                format!(
                    "{count}; {} in {}: {}",
                    first.name, first.path, first.reason
                )
            }
            (count, None) => count.to_string(),
        };
        return Err(Error::format(path, "adapters", "two or more", found));
    }
    Ok((adapters, refused, notes))
}

/// Calls the modules as the first adapter does where another's names have a prefix more or less, and
/// returns what to say of it.
fn align(adapters: &mut [Opened]) -> Vec<String> {
    let mut notes = Vec::new();
    let Some((first, others)) = adapters.split_first_mut() else {
        return notes;
    };
    let named = |one: &Opened| -> BTreeMap<String, (usize, usize)> {
        let modules = one.adapter.contents.modules.iter();
        modules
            .map(|module| (module.name.clone(), module.shape))
            .collect()
    };
    let names = named(first);
    // The adapter before training is looked into by the modules' own names.
    for other in others.iter_mut().filter(|one| !one.adapter.has_initial()) {
        let alignment = Alignment::of(&names, &named(other));
        notes.extend(alignment.described(&first.record.path, &other.record.path));
        for module in &mut other.adapter.contents.modules {
            module.name = alignment.mapped(&module.name, |name| names.contains_key(name));
        }
        let modules = &mut other.adapter.contents.modules;
        modules.sort_by(|x, y| natural_order(&x.name, &y.name));
    }
    notes
}

/// The last number in the last part in which the paths differ: 500 of `run/checkpoint-500/adapter`
/// beside `run/final/adapter`, which has none.
fn steps(paths: &[String]) -> Vec<Option<u64>> {
    let part = |path: &str, from_end: usize| -> Option<String> {
        let parts = path.split(['/', '\\']).filter(|part| !part.is_empty());
        parts.rev().nth(from_end).map(str::to_owned)
    };
    let is_common = |&from_end: &usize| {
        let first = part(&paths[0], from_end);
        first.is_some() && paths.iter().all(|path| part(path, from_end) == first)
    };
    let place = (0..).take_while(is_common).count();
    let number = |path: &String| {
        let part = part(path, place)?;
        let mut runs = part.split(|c: char| !c.is_ascii_digit()).rev();
        runs.find(|run| !run.is_empty())?.parse().ok()
    };
    paths.iter().map(number).collect()
}

/// Which adapters are compared, by place, the smaller one first.
fn pairs(count: usize, over_time: bool) -> BTreeSet<(usize, usize)> {
    if over_time {
        let last = count - 1;
        (0..last).flat_map(|i| [(i, i + 1), (i, last)]).collect()
    } else {
        (0..count)
            .flat_map(|i| (i + 1..count).map(move |j| (i, j)))
            .collect()
    }
}

/// A module that two adapters or more have in one shape, each by its place and its own record of it.
type Group<'a> = Vec<(usize, &'a Module)>;

/// Modules of one name and shape, and those that are not in every adapter.
fn shared(adapters: &[Opened]) -> (Vec<Group<'_>>, Vec<Apart>) {
    let mut names: BTreeMap<&str, Group<'_>> = BTreeMap::new();
    for (place, one) in adapters.iter().enumerate() {
        for module in &one.adapter.contents.modules {
            names.entry(&module.name).or_default().push((place, module));
        }
    }
    let mut ordered: Vec<_> = names.into_iter().collect();
    ordered.sort_by(|x, y| natural_order(x.0, y.0));
    let (mut groups, mut apart) = (Vec::new(), Vec::new());
    for (name, all) in ordered {
        let mut shapes: BTreeMap<((usize, usize), bool), Group<'_>> = BTreeMap::new();
        let present = all.len();
        for (place, module) in all {
            let key = (module.shape, module.is_transposed);
            shapes.entry(key).or_default().push((place, module));
        }
        let mut leave = |group: &Group<'_>, reason: String| {
            apart.push(Apart {
                module: name.to_owned(),
                adapters: group.iter().map(|&(place, _)| place).collect(),
                reason,
            });
        };
        let is_one = shapes.len() == 1;
        for (((rows, columns), _), group) in shapes {
            if !is_one {
                let found = format!("expected one shape, found {rows} x {columns} here");
                leave(&group, found);
            } else if present < adapters.len() {
                let found = format!("expected in all {}, found in {present}", adapters.len());
                leave(&group, found);
            }
            if group.len() > 1 {
                groups.push(group);
            }
        }
    }
    (groups, apart)
}

/// What the modules of one group give.
#[derive(Default)]
struct Found {
    updates: Vec<UpdateRecord>,
    pairs: Vec<PairRecord>,
    apart: Vec<Apart>,
}

fn of_group(
    group: &Group<'_>,
    adapters: &[Opened],
    places: &BTreeSet<(usize, usize)>,
    options: &CompareOptions,
) -> Found {
    let mut found = Found::default();
    let leave = |module: &Module, adapters: Vec<usize>, error: &Error| Apart {
        module: module.name.clone(),
        adapters,
        reason: error.to_string(),
    };
    let mut read = Vec::new();
    for &(place, module) in group {
        match Directions::read(&adapters[place].adapter, module) {
            Ok(directions) => read.push((place, module, directions)),
            Err(error) => found.apart.push(leave(module, vec![place], &error)),
        }
    }
    let weight = match (&options.base, read.first()) {
        (Some(_), Some(&(place, module, _))) => {
            match adapters[place]
                .adapter
                .base_weight(module)
                .and_then(Weight::new)
            {
                Ok(weight) => Some(weight),
                Err(error) => {
                    let all = read.iter().map(|one| one.0).collect();
                    found.apart.push(leave(module, all, &error));
                    None
                }
            }
        }
        _ => None,
    };
    for (place, module, directions) in &read {
        let against = weight
            .as_ref()
            .map(|w| w.against(directions, options.intruders));
        let against_weight = match against.transpose() {
            Ok(against) => against,
            Err(error) => {
                found.apart.push(leave(module, vec![*place], &error));
                None
            }
        };
        found.updates.push(UpdateRecord {
            adapter: *place,
            module: module.name.clone(),
            layer: first_number(&module.name),
            role: role(&module.name),
            shape: [module.shape.0, module.shape.1],
            measures: directions.measures.clone(),
            against_weight,
        });
    }
    for (at, (first, module, one)) in read.iter().enumerate() {
        for (second, _, other) in &read[at + 1..] {
            if !places.contains(&(*first, *second)) {
                continue;
            }
            // Two adapters are looked at in full; of many, only what a table of all can hold.
            let in_full = (adapters.len() == 2).then_some(&options.grid);
            match of_pair(module, one, other, options.rank, in_full) {
                Ok(record) => found.pairs.push(PairRecord {
                    first: *first,
                    second: *second,
                    ..record
                }),
                Err(error) => {
                    let both = vec![*first, *second];
                    found.apart.push(leave(module, both, &error));
                }
            }
        }
    }
    found
}

fn of_pair(
    module: &Module,
    one: &Directions,
    other: &Directions,
    rank: usize,
    in_full: Option<&GridChoice>,
) -> Result<PairRecord, Error> {
    let (rows, columns) = module.shape;
    let ratio = |x: f64, y: f64| (y > 0.0).then(|| x / y);
    let side = |basis: fn(&Directions, usize) -> ndarray::ArrayView2<'_, f64>| {
        let (r1, r2) = (one.rank(), other.rank());
        if r1.min(r2) == 0 {
            return Ok(None);
        }
        let energies = (one.measures.energy_rank_99, other.measures.energy_rank_99);
        let bases = (basis(one, r1), basis(other, r2));
        side_record(bases, energies, rank, in_full).map(Some)
    };
    Ok(PairRecord {
        first: 0,
        second: 0,
        module: module.name.clone(),
        layer: first_number(&module.name),
        role: role(&module.name),
        shape: [rows, columns],
        ranks: [one.rank(), other.rank()],
        cosine: cosine(one, other),
        cosine_deviation: 1.0 / ((rows as f64).sqrt() * (columns as f64).sqrt()),
        distance: distance(one, other)?,
        norm_ratio: ratio(other.measures.frobenius_norm, one.measures.frobenius_norm),
        left: side(Directions::left)?,
        right: side(Directions::right)?,
    })
}

fn side_record(
    (first, second): (ndarray::ArrayView2<'_, f64>, ndarray::ArrayView2<'_, f64>),
    energies: (usize, usize),
    rank: usize,
    in_full: Option<&GridChoice>,
) -> Result<SideRecord, Error> {
    let (dimension, r1, r2) = (first.nrows(), first.ncols(), second.ncols());
    let overlap = first.t().dot(&second);
    let phi = similarity_of(overlap.view());
    let angles = angles_of(first, second, overlap.view())?;
    let at = |i: usize, j: usize| {
        // The 99 % rank may exceed the numerical rank where the threshold is coarse.
        let (i, j) = (i.clamp(1, r1), j.clamp(1, r2));
        Similarity {
            i,
            j,
            phi: phi[(i - 1, j - 1)],
            chance: ChanceSimilarity::of(dimension, i, j),
        }
    };
    let least = r1.min(r2);
    let (half, chosen) = (least.div_ceil(2), rank.min(least));
    let mean_angle = angles.iter().sum::<f64>() / angles.len() as f64;
    let grid = in_full.map(|choice| {
        let (rows, columns) = (choice.values(r1), choice.values(r2));
        let row = |&i: &usize| columns.iter().map(|&j| phi[(i - 1, j - 1)]).collect();
        Grid {
            phi: rows.iter().map(row).collect(),
            first: rows,
            second: columns,
        }
    });
    let angles = if in_full.is_some() {
        angles
    } else {
        Vec::new()
    };
    Ok(SideRecord {
        dimension,
        top: at(1, 1),
        chosen: at(chosen, chosen),
        half: at(half, half),
        all: at(r1, r2),
        energy_99: at(energies.0, energies.1),
        mean_angle,
        angles_degrees: angles.iter().map(|angle| angle.to_degrees()).collect(),
        angles,
        grid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_the_last_numbers_of_names() {
        let of = |paths: &[&str]| steps(&paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        let run = [
            "run-3/checkpoint-500",
            "run-3/checkpoint-1000/",
            "run-3/final",
        ];
        assert_eq!(of(&run), [Some(500), Some(1000), None]);
        assert_eq!(
            of(&["r8-step20/adapter", "r8-step3/adapter"]),
            [Some(20), Some(3)]
        );
        assert_eq!(of(&["same-1", "same-1"]), [None, None]);
    }

    #[test]
    fn checkpoints_are_compared_with_the_next_and_the_last() {
        let all: Vec<_> = pairs(4, true).into_iter().collect();
        assert_eq!(all, [(0, 1), (0, 3), (1, 2), (1, 3), (2, 3)]);
        assert_eq!(pairs(4, false).len(), 6);
    }
}
