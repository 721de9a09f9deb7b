//! Record files: columns with the names of the machine-readable form.

use anyhow::Result;
use rankwise_analysis::{Comparison, Likeness, PairRecord, SideRecord, Similarity, UpdateRecord};
use rankwise_data::{Column, Table};

use super::SIDES;

/// Where on a side φ is taken, and which number of it.
type PlaceOf = fn(&SideRecord) -> Similarity;
type NumberOf = fn(Similarity) -> f64;

/// One row a module of two adapters.
///
/// # Errors
/// Never: the columns are made of the same rows.
pub fn pairs_table(comparison: &Comparison) -> Result<Table> {
    let pairs = &comparison.pairs;
    let path = |place: fn(&PairRecord) -> usize| -> Column {
        let path = |pair| comparison.adapters[place(pair)].path.clone();
        pairs.iter().map(path).collect()
    };
    let whole = |value: fn(&PairRecord) -> usize| -> Column { pairs.iter().map(value).collect() };
    let real =
        |value: fn(&PairRecord) -> Option<f64>| -> Column { pairs.iter().map(value).collect() };
    let columns = vec![
        ("first", path(|p| p.first)),
        ("second", path(|p| p.second)),
        ("module", pairs.iter().map(|p| p.module.clone()).collect()),
        ("role", pairs.iter().map(|p| p.role.clone()).collect()),
        ("layer", real(|p| p.layer.map(|layer| layer as f64))),
        ("rows", whole(|p| p.shape[0])),
        ("columns", whole(|p| p.shape[1])),
        ("rank_first", whole(|p| p.ranks[0])),
        ("rank_second", whole(|p| p.ranks[1])),
        ("cosine", real(|p| p.cosine)),
        ("cosine_deviation", real(|p| Some(p.cosine_deviation))),
        ("distance", real(|p| p.distance)),
        ("norm_ratio", real(|p| p.norm_ratio)),
    ];
    let mut columns: Vec<(String, Column)> = columns
        .into_iter()
        .map(|(name, column)| (name.to_owned(), column))
        .collect();
    for ((_, side), prefix) in SIDES.into_iter().zip(["left", "right"]) {
        let of = |value: fn(&SideRecord) -> f64| -> Column {
            pairs.iter().map(|pair| side(pair).map(value)).collect()
        };
        let places: [(&str, PlaceOf); 5] = [
            ("top", |s| s.top),
            ("chosen", |s| s.chosen),
            ("half", |s| s.half),
            ("all", |s| s.all),
            ("energy_99", |s| s.energy_99),
        ];
        for (place, at) in places {
            let fields: [(&str, NumberOf); 5] = [
                ("i", |s| s.i as f64),
                ("j", |s| s.j as f64),
                ("phi", |s| s.phi),
                ("chance", |s| s.chance.mean),
                ("chance_deviation", |s| s.chance.deviation),
            ];
            for (field, value) in fields {
                let values = pairs.iter().map(|pair| side(pair).map(|s| value(at(s))));
                columns.push((format!("{prefix}_{place}_{field}"), values.collect()));
            }
        }
        columns.push((format!("{prefix}_mean_angle"), of(|s| s.mean_angle)));
    }
    let (names, values): (Vec<String>, Vec<Column>) = columns.into_iter().unzip();
    let columns = names.iter().map(String::as_str).zip(values);
    Ok(Table::new(columns.collect())?)
}

/// One row an update: its ranks and, with a base model, what it does to the weight.
///
/// # Errors
/// Never: the columns are made of the same rows.
pub fn updates_table(comparison: &Comparison) -> Result<Table> {
    let updates = &comparison.updates;
    let whole =
        |value: fn(&UpdateRecord) -> usize| -> Column { updates.iter().map(value).collect() };
    let real =
        |value: fn(&UpdateRecord) -> Option<f64>| -> Column { updates.iter().map(value).collect() };
    let amplified = |value: fn(&rankwise_analysis::Amplification) -> Option<f64>| -> Column {
        let of = |update: &UpdateRecord| {
            let against = update.against_weight.as_ref()?;
            value(against.amplification.as_ref()?)
        };
        updates.iter().map(of).collect()
    };
    let adapter = |u: &UpdateRecord| &comparison.adapters[u.adapter];
    Ok(Table::new(vec![
        (
            "adapter",
            updates.iter().map(|u| adapter(u).path.clone()).collect(),
        ),
        (
            "step",
            updates
                .iter()
                .map(|u| adapter(u).step.map(|step| step as f64))
                .collect(),
        ),
        ("module", updates.iter().map(|u| u.module.clone()).collect()),
        ("role", updates.iter().map(|u| u.role.clone()).collect()),
        ("layer", real(|u| u.layer.map(|layer| layer as f64))),
        ("rows", whole(|u| u.shape[0])),
        ("columns", whole(|u| u.shape[1])),
        ("numerical_rank", whole(|u| u.measures.numerical_rank)),
        ("energy_rank_90", whole(|u| u.measures.energy_rank_90)),
        ("energy_rank_95", whole(|u| u.measures.energy_rank_95)),
        ("energy_rank_99", whole(|u| u.measures.energy_rank_99)),
        ("stable_rank", real(|u| u.measures.stable_rank)),
        ("effective_rank", real(|u| u.measures.effective_rank)),
        (
            "effective_rank_energy",
            real(|u| u.measures.effective_rank_energy),
        ),
        (
            "participation_ratio",
            real(|u| u.measures.participation_ratio),
        ),
        ("nuclear_ratio", real(|u| u.measures.nuclear_ratio)),
        ("frobenius_norm", real(|u| Some(u.measures.frobenius_norm))),
        ("spectral_norm", real(|u| Some(u.measures.spectral_norm))),
        ("weight_norm", amplified(|a| Some(a.weight_norm))),
        ("amplification", amplified(|a| a.factor)),
        ("amplification_weight", amplified(|a| a.weight)),
        ("amplification_random", amplified(|a| a.random)),
        (
            "intruders",
            real(|u| Some(u.against_weight.as_ref()?.intruders as f64)),
        ),
    ])?)
}

/// φ(i, j) of two adapters in full: one row a module, side, i and j.
///
/// # Errors
/// Never: the columns are made of the same rows.
pub fn grid_table(comparison: &Comparison) -> Result<Table> {
    let (mut modules, mut sides, mut phi) = (Vec::new(), Vec::new(), Vec::new());
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for pair in &comparison.pairs {
        for (name, side) in SIDES {
            let Some(grid) = side(pair).and_then(|side| side.grid.as_ref()) else {
                continue;
            };
            for (&i, row) in grid.first.iter().zip(&grid.phi) {
                for (&j, &value) in grid.second.iter().zip(row) {
                    modules.push(pair.module.clone());
                    sides.push(name.to_owned());
                    first.push(i);
                    second.push(j);
                    phi.push(value);
                }
            }
        }
    }
    Ok(Table::new(vec![
        ("module", modules.into_iter().collect()),
        ("side", sides.into_iter().collect()),
        ("i", first.into_iter().collect()),
        ("j", second.into_iter().collect()),
        ("phi", phi.into_iter().collect()),
    ])?)
}

/// Every two adapters: the means over the modules that they share.
///
/// # Errors
/// Never: the columns are made of the same rows.
pub fn likeness_table(comparison: &Comparison) -> Result<Table> {
    let count = comparison.adapters.len();
    let pairs: Vec<(usize, usize)> = (0..count)
        .flat_map(|i| (0..count).map(move |j| (i, j)))
        .collect();
    let path = |place: usize| comparison.adapters[place].path.clone();
    let of = |likeness: Likeness| -> Column {
        let matrix = comparison.matrix(likeness);
        pairs.iter().map(|&(i, j)| matrix[i][j]).collect()
    };
    let shared = |&(i, j): &(usize, usize)| {
        if i == j {
            comparison.adapters[i].modules
        } else {
            comparison.shared(i, j)
        }
    };
    Ok(Table::new(vec![
        ("first", pairs.iter().map(|&(i, _)| path(i)).collect()),
        ("second", pairs.iter().map(|&(_, j)| path(j)).collect()),
        ("modules", pairs.iter().map(shared).collect()),
        ("phi_left", of(Likeness::PhiLeft)),
        ("phi_right", of(Likeness::PhiRight)),
        ("cosine", of(Likeness::Cosine)),
        ("angle_left", of(Likeness::AngleLeft)),
        ("angle_right", of(Likeness::AngleRight)),
    ])?)
}
