//! Heat maps: a table of numbers as coloured cells with a bar that explains the colours.

use crate::Error;
use crate::axis::{Axis, Scale};
use crate::figure::{Figure, page};
use crate::font;
use crate::frame::Frame;
use crate::legend::Legend;
use crate::scene::{Anchor, Scene};
use crate::style::{Color, GREY, INK, WHITE};

/// A table of numbers with a name for every row and column.
///
/// A value that is not finite leaves its cell blank, with a cross; one outside
/// the range has the colour of the nearer end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeatMap {
    /// Heading of the chart.
    pub title: String,
    /// Name of what the columns are; empty for none.
    pub x_label: String,
    /// Name of what the rows are; empty for none.
    pub y_label: String,
    /// A small line below the title; empty for none.
    pub note: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Names of the rows, from the top.
    pub rows: Vec<String>,
    /// A row of as many values as there are columns, for every row.
    pub values: Vec<Vec<f64>>,
    /// The values of the palest and the darkest colour.
    pub range: (f64, f64),
    /// Decimals of the numbers written into the cells; `None` for no numbers.
    pub decimals: Option<usize>,
}

/// Draws one heat map.
///
/// ```
/// use rankwise_figures::{HeatMap, heat_map};
///
/// let names = vec!["one".to_owned(), "other".to_owned()];
/// let figure = heat_map(&HeatMap {
///     title: "Similarity".into(),
///     columns: names.clone(),
///     rows: names,
///     values: vec![vec![1.0, 0.25], vec![0.25, 1.0]],
///     range: (0.0, 1.0),
///     decimals: Some(2),
///     ..HeatMap::default()
/// })?;
/// assert!(figure.svg.contains("0.25"));
/// # Ok::<(), rankwise_figures::Error>(())
/// ```
///
/// # Errors
/// [`Error::Empty`] without a finite value, [`Error::Length`] for names or rows
/// that differ in number from the values, [`Error::Range`] for a range that is
/// not increasing and finite, [`Error::Count`] for more than 128 rows or
/// columns.
pub fn heat_map(map: &HeatMap) -> Result<Figure, Error> {
    heat_maps(std::slice::from_ref(map), 1)
}

/// Draws heat maps in rows of `columns` (1 to 4).
///
/// # Errors
/// As [`heat_map`], and [`Error::Count`] for no chart, more than 16, or a number
/// of columns outside 1 to 4.
pub fn heat_maps(maps: &[HeatMap], columns: usize) -> Result<Figure, Error> {
    Figure::of(&lay_out(maps, columns)?)
}

fn lay_out(maps: &[HeatMap], columns: usize) -> Result<Scene, Error> {
    maps.iter().try_for_each(check)?;
    let legend = Legend::of([])?;
    page(maps, columns, &legend, |map| &map.title, draw)
}

/// More cells along a side are thinner than a finger of ten pixels.
const MOST: usize = 128;

fn check(map: &HeatMap) -> Result<(), Error> {
    let length = |label: &str, field, expected, found| {
        if expected == found {
            Ok(())
        } else {
            Err(Error::Length {
                title: map.title.clone(),
                label: label.to_owned(),
                field,
                expected,
                found,
            })
        }
    };
    length("rows", "values", map.rows.len(), map.values.len())?;
    for (name, row) in map.rows.iter().zip(&map.values) {
        length(name, "values", map.columns.len(), row.len())?;
    }
    for found in [map.rows.len(), map.columns.len()] {
        if found > MOST {
            let what = "rows or columns in a heat map";
            return Err(Error::Count {
                what,
                most: MOST,
                found,
            });
        }
    }
    if map.values.iter().flatten().any(|value| value.is_finite()) {
        Ok(())
    } else {
        Err(Error::Empty {
            title: map.title.clone(),
        })
    }
}

/// Sequential, from nearly white over the palette's blue to nearly black: as
/// luminance falls all the way, it also reads in grey and under colour blindness.
const RAMP: [Color; 5] = [
    Color::hex(0xF4F8FB),
    Color::hex(0xA9D0EA),
    Color::hex(0x3D97CC),
    Color::hex(0x005F9E),
    Color::hex(0x0A2340),
];

/// The colour of `share` in `[0, 1]` of the range.
fn color(share: f64) -> Color {
    let place = share.clamp(0.0, 1.0) * (RAMP.len() - 1) as f64;
    let index = (place as usize).min(RAMP.len() - 2);
    let (from, to, t) = (RAMP[index], RAMP[index + 1], place - index as f64);
    let mix = |a: u8, b: u8| (f64::from(a) + t * (f64::from(b) - f64::from(a))).round() as u8;
    Color {
        red: mix(from.red, to.red),
        green: mix(from.green, to.green),
        blue: mix(from.blue, to.blue),
    }
}

const TITLE: f64 = 27.0;
const LABEL: f64 = 23.0;
const TICK: f64 = 21.0;
const NOTE: f64 = 19.0;
const GAP: f64 = 10.0;
/// Width of the bar that explains the colours.
const BAR: f64 = 22.0;
/// Colours of the bar.
const STEPS: usize = 64;
/// Names may take this share of the chart's width or height.
const NAMES: f64 = 0.32;
/// Texts are not set smaller than this.
const SMALLEST: f64 = 11.0;

fn draw(scene: &mut Scene, map: &HeatMap, cell: Frame) -> Result<(), Error> {
    let scale = Axis::fixed(map.range, Scale::Linear, "range of colours", &map.title)?;
    let top = headings(scene, map, cell);
    let widest = |names: &[String]| {
        let widths = names.iter().map(|name| font::width(name, TICK));
        widths.fold(0.0, f64::max)
    };
    let ticks = scale.ticks(5);
    let tick_width = ticks
        .iter()
        .map(|tick| font::width(&tick.label, TICK))
        .fold(0.0, f64::max);
    let bar_room = 2.0 * GAP + BAR + 0.7 * GAP + tick_width;
    let y_room = if map.y_label.is_empty() {
        0.0
    } else {
        LABEL + GAP
    };
    let x_room = if map.x_label.is_empty() {
        0.0
    } else {
        LABEL + GAP
    };

    let (rows, columns) = (map.rows.len() as f64, map.columns.len() as f64);
    let names_left = widest(&map.rows).min(NAMES * cell.width()) + GAP;
    let width = cell.width() - y_room - names_left - bar_room;
    // Names that do not fit side by side are turned, and shrink to their room.
    let side = width / columns;
    let is_turned = widest(&map.columns) + 0.5 * GAP > side && !are_numbers(&map.columns);
    let names_below = if is_turned {
        widest(&map.columns).min(NAMES * cell.height()) + GAP
    } else {
        TICK + GAP
    };
    let height = cell.bottom - top - x_room - names_below;
    // Square cells, as large as both sides allow.
    let side = side.min(height / rows);
    let whole = y_room + names_left + columns * side + bar_room;
    let left = cell.left + (cell.width() - whole) / 2.0 + y_room + names_left;
    let field = Frame {
        left,
        top,
        right: left + columns * side,
        bottom: top + rows * side,
    };
    cells(scene, map, &scale, field, side);
    names(
        scene,
        map,
        field,
        side,
        is_turned,
        (names_left, names_below),
    );
    let middle = |low: f64, high: f64| (low + high) / 2.0;
    if !map.x_label.is_empty() {
        let at = (
            middle(field.left, field.right),
            field.bottom + names_below + LABEL / 2.0,
        );
        scene.text(&map.x_label, at, LABEL, INK, Anchor::Middle);
    }
    if !map.y_label.is_empty() {
        let x = field.left - names_left - y_room + LABEL / 2.0;
        let at = (x, middle(field.top, field.bottom));
        scene.turned_text(&map.y_label, at, LABEL, INK);
    }
    let bar = Frame {
        left: field.right + 2.0 * GAP,
        right: field.right + 2.0 * GAP + BAR,
        ..field
    };
    draw_bar(scene, bar);
    for tick in ticks {
        let fraction = scale.fraction(tick.at);
        if (-1e-6..=1.0 + 1e-6).contains(&fraction) {
            let level = bar.bottom - fraction * bar.height();
            scene.rule(
                (bar.right, level),
                (bar.right + 0.4 * GAP, level),
                GREY,
                1.3,
            );
            let at = (bar.right + 0.7 * GAP, level);
            scene.text(&tick.label, at, TICK, INK, Anchor::Start);
        }
    }
    Ok(())
}

/// Whether all names are numbers: of such, some can be left out.
fn are_numbers(names: &[String]) -> bool {
    names.iter().all(|name| name.parse::<f64>().is_ok())
}

/// Title and note; returns where they end.
fn headings(scene: &mut Scene, map: &HeatMap, cell: Frame) -> f64 {
    let fitted =
        |text: &str, size: f64| size * (cell.width() / font::width(text, size)).clamp(0.5, 1.0);
    let middle = (cell.left + cell.right) / 2.0;
    let size = fitted(&map.title, TITLE);
    scene.text(
        &map.title,
        (middle, cell.top + TITLE / 2.0),
        size,
        INK,
        Anchor::Middle,
    );
    let mut top = cell.top + TITLE + 1.4 * GAP;
    if !map.note.is_empty() {
        let size = fitted(&map.note, NOTE);
        scene.text(
            &map.note,
            (middle, top + NOTE / 2.0 - 0.4 * GAP),
            size,
            GREY,
            Anchor::Middle,
        );
        top += NOTE + 0.8 * GAP;
    }
    top
}

fn cells(scene: &mut Scene, map: &HeatMap, scale: &Axis, field: Frame, side: f64) {
    let box_of = |row: usize, column: usize| Frame {
        left: field.left + column as f64 * side,
        top: field.top + row as f64 * side,
        right: field.left + (column + 1) as f64 * side,
        bottom: field.top + (row + 1) as f64 * side,
    };
    for (row, values) in map.values.iter().enumerate() {
        for (column, &value) in values.iter().enumerate() {
            let frame = box_of(row, column);
            let middle = (
                (frame.left + frame.right) / 2.0,
                (frame.top + frame.bottom) / 2.0,
            );
            if !value.is_finite() {
                let reach = 0.15 * side;
                for sign in [-1.0, 1.0] {
                    let from = (middle.0 - reach, middle.1 - sign * reach);
                    let to = (middle.0 + reach, middle.1 + sign * reach);
                    scene.rule(from, to, GREY, 1.5);
                }
                continue;
            }
            let shade = color(scale.fraction(value));
            scene.area(frame.corners().to_vec(), shade, 1.0);
            if let Some(decimals) = map.decimals {
                let text = written(value, decimals);
                let size = (0.8 * side * TICK / font::width(&text, TICK)).min(TICK);
                let ink = if shade.luminance() > 0.3 { INK } else { WHITE };
                if size >= SMALLEST {
                    scene.text(&text, middle, size, ink, Anchor::Middle);
                }
            }
        }
    }
    scene.border(&field, GREY, 1.3);
}

/// A number with a true minus sign, and none before zero.
fn written(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.bytes().all(|byte| matches!(byte, b'0' | b'.')) => rest.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

fn names(
    scene: &mut Scene,
    map: &HeatMap,
    field: Frame,
    side: f64,
    is_turned: bool,
    (left, below): (f64, f64),
) {
    let widest = |names: &[String]| {
        let widths = names.iter().map(|name| font::width(name, TICK));
        widths.fold(1.0, f64::max)
    };
    // One size for all names of a side: the longest one's.
    let fitted = |names: &[String], room: f64| {
        (TICK * (room / widest(names)).min(1.0)).min(side.max(SMALLEST))
    };
    let (row_size, column_size) = (
        fitted(&map.rows, left - GAP),
        fitted(&map.columns, below - GAP),
    );
    // Where cells are narrower than their names, only every so many have theirs.
    let step = |needed: f64| ((needed / side).ceil() as usize).max(1).next_power_of_two();
    let tall = if are_numbers(&map.rows) {
        step(1.1 * TICK)
    } else {
        1
    };
    let is_shown = |names: &[String], step: usize, k: usize| {
        // 1, 4, 8, 12, … where every fourth has room; 1 only where it does not touch 2.
        step == 1 || k == 0 && step > 2 && names.len() >= step || (k + 1).is_multiple_of(step)
    };
    for (row, name) in map.rows.iter().enumerate() {
        if is_shown(&map.rows, tall, row) {
            let at = (
                field.left - 0.7 * GAP,
                field.top + (row as f64 + 0.5) * side,
            );
            scene.text(name, at, row_size, INK, Anchor::End);
        }
    }
    let wide = if are_numbers(&map.columns) {
        step(widest(&map.columns) + 0.5 * GAP)
    } else {
        1
    };
    for (column, name) in map.columns.iter().enumerate() {
        let middle = field.left + (column as f64 + 0.5) * side;
        if is_turned {
            let length = font::width(name, column_size);
            let at = (middle, field.bottom + 0.7 * GAP + length / 2.0);
            scene.turned_text(name, at, column_size, INK);
        } else if is_shown(&map.columns, wide, column) {
            let at = (middle, field.bottom + 0.7 * GAP + TICK / 2.0);
            scene.text(name, at, TICK, INK, Anchor::Middle);
        }
    }
}

fn draw_bar(scene: &mut Scene, bar: Frame) {
    let height = bar.height() / STEPS as f64;
    for step in 0..STEPS {
        let bottom = bar.bottom - step as f64 * height;
        let frame = Frame {
            bottom,
            top: bottom - height,
            ..bar
        };
        let share = (step as f64 + 0.5) / STEPS as f64;
        scene.area(frame.corners().to_vec(), color(share), 1.0);
    }
    scene.border(&bar, GREY, 1.3);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::Mark;

    fn map(values: &[&[f64]]) -> HeatMap {
        let names = |count: usize| (0..count).map(|k| format!("name {k}")).collect();
        HeatMap {
            title: "t".to_owned(),
            columns: names(values[0].len()),
            rows: names(values.len()),
            values: values.iter().map(|row| row.to_vec()).collect(),
            range: (0.0, 1.0),
            decimals: Some(2),
            ..HeatMap::default()
        }
    }

    fn areas(scene: &Scene, wanted: Color) -> usize {
        let is_wanted = |mark: &&Mark| matches!(mark, Mark::Area { color, .. } if *color == wanted);
        scene.marks.iter().filter(is_wanted).count()
    }

    fn texts(scene: &Scene) -> Vec<&str> {
        let texts = scene.marks.iter().filter_map(|mark| match mark {
            Mark::Text { text, .. } => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    #[test]
    fn luminance_falls_all_the_way() {
        let shades: Vec<f64> = (0..=20)
            .map(|k| color(f64::from(k) / 20.0).luminance())
            .collect();
        assert!(
            shades.windows(2).all(|pair| pair[1] < pair[0]),
            "{shades:?}"
        );
        assert_eq!((color(-3.0), color(7.0)), (RAMP[0], RAMP[4]));
        assert_eq!(color(0.25), RAMP[1]);
    }

    #[test]
    fn a_cell_has_the_colour_and_the_number_of_its_value() {
        let scene = lay_out(&[map(&[&[1.0, 0.5], &[-2.0, f64::NAN]])], 1).unwrap();
        // The bar's colours lie between those of whole quarters.
        assert_eq!((areas(&scene, RAMP[4]), areas(&scene, RAMP[2])), (1, 1));
        assert_eq!(areas(&scene, RAMP[0]), 1);
        let texts = texts(&scene);
        for text in ["1.00", "0.50", "−2.00", "name 0", "name 1"] {
            assert!(texts.contains(&text), "{text}: {texts:?}");
        }
        assert!(!texts.contains(&"NaN"));
    }

    #[test]
    fn no_minus_before_zero() {
        assert_eq!(
            (written(-0.001, 2), written(-0.25, 1)),
            ("0.00".into(), "−0.2".into())
        );
    }

    #[test]
    fn cells_are_square_and_inside_the_page() {
        for (rows, columns) in [(1, 9), (9, 1), (3, 3), (40, 64)] {
            let row = vec![1.0; columns];
            let mut wide = map(&vec![&row[..]; rows]);
            wide.decimals = None;
            let scene = lay_out(&[wide], 1).unwrap();
            let mut count = 0;
            for mark in &scene.marks {
                if let Mark::Area { outline, color, .. } = mark
                    && *color == RAMP[4]
                {
                    let (a, c) = (outline[0], outline[2]);
                    assert!(((c.0 - a.0) - (c.1 - a.1)).abs() < 1e-9 && c.0 > a.0);
                    assert!(a.0 >= 0.0 && c.1 <= f64::from(scene.height));
                    count += 1;
                }
            }
            assert_eq!(count, rows * columns);
        }
    }

    #[test]
    fn numbered_names_are_thinned_out() {
        let row = vec![0.5; 64];
        let mut fine = map(&vec![&row[..]; 64]);
        let numbers: Vec<String> = (1..=64).map(|k| k.to_string()).collect();
        (fine.rows, fine.columns) = (numbers.clone(), numbers);
        fine.decimals = None;
        let scene = lay_out(&[fine], 2).unwrap();
        let shown = texts(&scene);
        assert!(shown.contains(&"1") && shown.contains(&"64"), "{shown:?}");
        assert!(shown.len() < 60, "{shown:?}");
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let nothing = heat_map(&map(&[&[f64::NAN]])).unwrap_err();
        assert!(matches!(nothing, Error::Empty { title } if title == "t"));
        let mut uneven = map(&[&[1.0, 0.0]]);
        uneven.columns.pop();
        let error = heat_map(&uneven).unwrap_err().to_string();
        assert!(
            error.contains("expected 1 values") && error.contains("got 2"),
            "{error}"
        );
        let mut flat = map(&[&[1.0]]);
        flat.range = (1.0, 1.0);
        let error = heat_map(&flat).unwrap_err().to_string();
        assert!(error.contains("range of colours"), "{error}");
        let row = vec![0.0; 129];
        let error = heat_map(&map(&[&row])).unwrap_err();
        assert!(matches!(error, Error::Count { found: 129, .. }));
    }
}
