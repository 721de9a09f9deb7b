//! A page's data for its script: columns rather than rows, every text once.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::html::FINDINGS_AT_ONCE;
use super::model::{Cell, Group, Page, Row, Span};

#[derive(Serialize)]
struct Data<'a> {
    columns: Vec<ColumnData>,
    groups: Vec<GroupData>,
    /// Those that are not in the page itself.
    findings: BTreeMap<&'static str, Vec<Vec<usize>>>,
    strings: Vec<&'a str>,
    measure: &'static str,
    curve: &'static str,
    overlay: &'static str,
    axis: &'static str,
    first: usize,
    relative: bool,
}

#[derive(Serialize)]
struct ColumnData {
    id: &'static str,
    label: &'static str,
    text: bool,
    heat: bool,
    log: bool,
}

#[derive(Serialize)]
struct GroupData {
    title: String,
    values: Vec<Vec<Datum>>,
    role: Vec<usize>,
    layer: Vec<Option<usize>>,
    curves: Vec<Vec<Option<i64>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Vec<Vec<usize>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<Vec<Option<i64>>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Datum {
    Whole(i64),
    Real(f64),
    Missing(()),
}

/// Texts by number.
#[derive(Default)]
struct Strings<'a> {
    list: Vec<&'a str>,
    numbers: HashMap<&'a str, usize>,
}

impl<'a> Strings<'a> {
    fn number(&mut self, text: &'a str) -> usize {
        *self.numbers.entry(text).or_insert_with(|| {
            self.list.push(text);
            self.list.len() - 1
        })
    }
}

/// The data as JSON that may stand inside a script element.
pub(super) fn json(page: &Page<'_>) -> Result<String, serde_json::Error> {
    let mut strings = Strings::default();
    let columns = page.columns.iter().map(|column| ColumnData {
        id: column.id,
        label: column.label,
        text: column.is_text,
        heat: column.heat.is_some(),
        log: column.heat == Some(Span::Decades),
    });
    let groups = page.groups.iter();
    let groups = groups.map(|group| group_data(group, page.columns.len(), &mut strings));
    let groups = groups.collect();
    let mut findings = BTreeMap::new();
    for own in page.findings.iter().flatten() {
        let others = own.rows.iter().skip(FINDINGS_AT_ONCE);
        let others: Vec<Vec<usize>> = others
            .map(|row| row.iter().map(|text| strings.number(text)).collect())
            .collect();
        if !others.is_empty() {
            findings.insert(own.kind, others);
        }
    }
    let data = Data {
        columns: columns.collect(),
        groups,
        findings,
        strings: strings.list,
        measure: page.measure,
        curve: page.curves.name,
        overlay: page.curves.heading,
        axis: page.curves.axis,
        first: page.curves.first,
        relative: page.curves.is_relative,
    };
    // A script element ends at the first `</script`, wherever it stands.
    Ok(serde_json::to_string(&data)?.replace('<', "\\u003c"))
}

fn group_data<'a>(group: &'a Group, columns: usize, strings: &mut Strings<'a>) -> GroupData {
    let rows = &group.rows;
    let values = (0..columns)
        .map(|c| {
            rows.iter()
                .map(|row| datum(&row.cells[c], strings))
                .collect()
        })
        .collect();
    let has = |test: fn(&Row) -> bool| rows.iter().any(test);
    GroupData {
        title: group.title.clone(),
        values,
        role: rows.iter().map(|row| strings.number(&row.role)).collect(),
        layer: rows.iter().map(|row| row.layer).collect(),
        curves: rows
            .iter()
            .map(|row| row.curve.iter().map(|&value| thousandths(value)).collect())
            .collect(),
        at: has(|row| row.at.is_some()).then(|| {
            let places = rows.iter().map(|row| match &row.at {
                Some(at) => at.clone(),
                None => (0..row.curve.len()).collect(),
            });
            places.collect()
        }),
        floor: has(|row| row.floor.is_some())
            .then(|| rows.iter().map(|row| thousandths(row.floor?)).collect()),
    }
}

fn datum<'a>(cell: &'a Cell, strings: &mut Strings<'a>) -> Datum {
    match cell {
        Cell::Text(text) | Cell::Link(text, _) => Datum::Whole(strings.number(text) as i64),
        Cell::Number(Some(value)) | Cell::Told(value, _) if value.is_finite() => {
            if value.fract() == 0.0 && value.abs() < 1e9 {
                Datum::Whole(*value as i64)
            } else {
                Datum::Real(format!("{value:.4e}").parse().unwrap_or(*value))
            }
        }
        Cell::Number(_) | Cell::Told(..) => Datum::Missing(()),
    }
}

/// 1000 log₁₀, which zero does not have.
fn thousandths(value: f64) -> Option<i64> {
    let logarithm = (1000.0 * value.log10()).round();
    logarithm.is_finite().then_some(logarithm as i64)
}
