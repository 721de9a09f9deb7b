//! The public functions: what a figure shows, its errors, its bytes.

use std::collections::BTreeMap;
use std::fmt::Write;

use proptest::prelude::*;
use rankwise_figures::{
    Curve, Error, FONT_FACE_CSS, Group, Inset, Marker, PALETTE, Panel, Scale, Scatter, Stroke,
    grid, panel, scatter, scatter_grid,
};

fn curve(label: &str, stroke: Stroke, color: usize, mean: Vec<f64>) -> Curve {
    Curve {
        label: label.to_owned(),
        color: PALETTE[color],
        stroke,
        marker: Some(Marker::Circle),
        x: (1..=mean.len()).map(|k| k as f64).collect(),
        low: mean.iter().map(|m| m - 0.1).collect(),
        high: mean.iter().map(|m| m + 0.1).collect(),
        mean,
    }
}

fn chart(curves: Vec<Curve>) -> Panel {
    Panel {
        title: "Test Loss v.s. Epoch".to_owned(),
        x_label: "Epoch".to_owned(),
        y_label: "Test Loss".to_owned(),
        curves,
        ..Panel::default()
    }
}

fn two_curves() -> Panel {
    chart(vec![
        curve(
            "GM-LoRA (R = 32)",
            Stroke::Dashed,
            0,
            vec![2.0, 1.0, 0.6, 0.5],
        ),
        curve(
            "Full fine-tuning",
            Stroke::Solid,
            4,
            vec![1.8, 0.9, 0.7, 0.65],
        ),
    ])
}

/// The texts of an SVG in order, then how many elements have each colour.
fn outline(svg: &str) -> String {
    let attribute = |line: &str, name: &str| {
        let start = line.find(&format!(" {name}=\""))? + name.len() + 3;
        line[start..].split('"').next().map(str::to_owned)
    };
    let mut outline = String::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut lines = svg.lines();
    while let Some(line) = lines.next() {
        let kind = line.trim_start_matches('<').split(' ').next().unwrap();
        match kind {
            "text" => writeln!(outline, "{}", lines.next().unwrap()).unwrap(),
            "path" => {
                let stroke = attribute(line, "stroke").unwrap();
                let width = attribute(line, "stroke-width").unwrap();
                *counts
                    .entry(format!("path {stroke} width {width}"))
                    .or_default() += 1;
            }
            "polygon" => {
                let fill = attribute(line, "fill").unwrap();
                let opacity = attribute(line, "opacity").unwrap();
                *counts
                    .entry(format!("polygon {fill} opacity {opacity}"))
                    .or_default() += 1;
            }
            _ => {}
        }
    }
    for (element, count) in counts {
        writeln!(outline, "{count} × {element}").unwrap();
    }
    outline
}

#[test]
fn a_panel_shows_its_series() {
    insta::assert_snapshot!(outline(&panel(&two_curves()).unwrap().svg));
}

#[test]
fn a_grid_shares_its_legend() {
    let panels = [two_curves(), two_curves(), two_curves(), two_curves()];
    let svg = grid(&panels, 2).unwrap().svg;
    let labels = |label: &str| svg.matches(&format!(">\n{label}\n<")).count();
    assert_eq!(labels("GM-LoRA (R = 32)"), 1);
    assert_eq!(labels("Test Loss v.s. Epoch"), 4);
}

#[test]
fn an_inset_repeats_the_curves_of_its_window() {
    let with = Panel {
        inset: Some(Inset { from: 3.0, to: 4.0 }),
        ..two_curves()
    };
    let bands = |panel_: &Panel| {
        let svg = panel(panel_).unwrap().svg;
        svg.matches("opacity=\"0.14\"").count()
    };
    assert_eq!(bands(&two_curves()), 2);
    assert_eq!(bands(&with), 4);
}

#[test]
fn exact_results_stand_open_at_the_stated_floor() {
    let mut chart = chart(vec![curve(
        "measured",
        Stroke::Solid,
        0,
        vec![1.0, 1e-8, 0.0],
    )]);
    chart.curves[0].low.clear();
    chart.curves[0].high.clear();
    chart.y_scale = Scale::log();
    let svg = panel(&chart).unwrap().svg;
    assert!(svg.contains("open markers: at most 10⁻¹⁶"));
    chart.curves[0].mean[2] = 2e-16;
    assert!(!panel(&chart).unwrap().svg.contains("open markers"));
}

#[test]
fn a_gap_parts_the_line_and_leaves_a_lone_point_visible() {
    let mut curve = curve("", Stroke::Solid, 0, vec![1.0, 2.0, f64::NAN, 3.0]);
    curve.marker = None;
    curve.low.clear();
    curve.high.clear();
    let svg = panel(&chart(vec![curve])).unwrap().svg;
    let line = svg.lines().find(|line| line.contains("stroke=\"#0072B2\""));
    // One stretch of two points, and the lone point's marker.
    assert_eq!(line.unwrap().matches('M').count(), 1);
    assert_eq!(line.unwrap().matches('L').count(), 1);
    assert_eq!(
        svg.matches("<polygon opacity=\"1\" fill=\"#0072B2\"")
            .count(),
        1
    );
}

#[test]
fn a_given_range_cuts_curves_off() {
    let cut = Panel {
        y_range: Some((0.0, 1.0)),
        ..two_curves()
    };
    // Ticks 0.2 apart, where the whole curves have them 0.5 apart.
    let shows = |panel_: &Panel| panel(panel_).unwrap().svg.contains(">\n0.8\n<");
    assert!(shows(&cut) && !shows(&two_curves()));
}

#[test]
fn degenerate_data_are_drawn() {
    for mean in [
        vec![0.3],
        vec![0.0; 5],
        vec![1e300; 3],
        vec![-1e-300, 1e-300],
    ] {
        for y_scale in [Scale::Linear, Scale::log()] {
            let mut chart = chart(vec![curve("a", Stroke::Solid, 0, mean.clone())]);
            chart.y_scale = y_scale;
            let svg = panel(&chart).unwrap().svg_inline();
            assert!(svg.contains("fill=\"#0072B2\""), "{mean:?}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{mean:?}");
        }
    }
}

#[test]
fn the_font_is_embedded_once_and_can_be_left_out() {
    let figure = panel(&two_curves()).unwrap();
    assert_eq!(figure.svg.matches("@font-face").count(), 1);
    let inline = figure.svg_inline();
    assert!(!inline.contains("@font-face"));
    assert_eq!(
        figure.svg.len() - inline.len(),
        FONT_FACE_CSS.len() + "<style></style>\n".len()
    );
}

#[test]
fn the_same_data_give_the_same_bytes_on_any_thread() {
    let first = panel(&two_curves()).unwrap();
    let second = std::thread::spawn(|| panel(&two_curves()).unwrap());
    assert!(first == second.join().unwrap());
}

#[test]
fn bad_input_is_a_typed_error() {
    let title = || "Test Loss v.s. Epoch".to_owned();
    assert_eq!(panel(&chart(vec![])), Err(Error::Empty { title: title() }));
    let nan = chart(vec![curve("a", Stroke::Solid, 0, vec![f64::NAN; 3])]);
    assert_eq!(panel(&nan), Err(Error::Empty { title: title() }));

    let mut short = two_curves();
    short.curves[1].high.pop();
    let error = panel(&short).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`Test Loss v.s. Epoch`, curve `Full fine-tuning`: \
         expected 4 values of `high` as of `x`, got 3"
    );

    let mut half = two_curves();
    half.curves[0].low.clear();
    assert!(matches!(
        panel(&half),
        Err(Error::Length {
            field: "low",
            found: 0,
            ..
        })
    ));

    for y_range in [
        (1.0, 1.0),
        (2.0, 1.0),
        (f64::NAN, 1.0),
        (0.0, f64::INFINITY),
    ] {
        let bad = Panel {
            y_range: Some(y_range),
            ..two_curves()
        };
        assert!(
            matches!(
                panel(&bad),
                Err(Error::Range {
                    what: "y range",
                    ..
                })
            ),
            "{y_range:?}"
        );
    }

    let reversed = Panel {
        inset: Some(Inset { from: 4.0, to: 3.0 }),
        ..two_curves()
    };
    assert!(matches!(
        panel(&reversed),
        Err(Error::Range { what: "inset", .. })
    ));
    let beside = Panel {
        inset: Some(Inset {
            from: 55.0,
            to: 60.0,
        }),
        ..two_curves()
    };
    assert_eq!(panel(&beside), Err(Error::Empty { title: title() }));

    for floor in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let bad = Panel {
            y_scale: Scale::Log { floor },
            ..two_curves()
        };
        assert!(matches!(panel(&bad), Err(Error::Floor { .. })), "{floor}");
    }
}

#[test]
fn figures_that_no_page_can_carry_are_refused() {
    let count = |what, most, found| Err(Error::Count { what, most, found });
    assert_eq!(grid(&[], 2), count("charts in a figure", 16, 0));
    assert_eq!(grid(&[two_curves()], 0), count("columns in a figure", 4, 0));
    assert_eq!(
        scatter_grid(&[Scatter::default()], 5),
        count("columns in a figure", 4, 5)
    );
    let many = (0..65).map(|k| curve(&k.to_string(), Stroke::Solid, 0, vec![1.0]));
    assert_eq!(
        panel(&chart(many.collect())),
        count("labels in a legend", 64, 65)
    );

    let mut other = two_curves();
    other.curves[0].stroke = Stroke::Dotted;
    let label = "GM-LoRA (R = 32)".to_owned();
    assert_eq!(
        grid(&[two_curves(), other], 2),
        Err(Error::Legend { label })
    );
}

#[test]
fn a_scatter_shows_its_groups_and_note() {
    let group = |label: &str, color: usize, marker, points: &[(f64, f64)]| Group {
        label: label.to_owned(),
        color: PALETTE[color],
        marker,
        points: points.to_vec(),
    };
    let chart = Scatter {
        title: "Accuracy against effective rank".to_owned(),
        x_label: "Effective rank".to_owned(),
        y_label: "Accuracy <%> & more".to_owned(),
        groups: vec![
            group("LoRA", 0, Marker::Square, &[(2.0, 70.0), (4.0, 72.0)]),
            group("R-LoRA", 1, Marker::Cross, &[(6.0, 75.0), (7.5, f64::NAN)]),
        ],
        note: Some("ρ = 0.83".to_owned()),
        ..Scatter::default()
    };
    insta::assert_snapshot!(outline(&scatter(&chart).unwrap().svg));
}

fn any_panel() -> impl Strategy<Value = Panel> {
    let value =
        || prop_oneof![6 => -1e3_f64..1e3, 1 => proptest::num::f64::ANY, 1 => Just(f64::NAN)];
    let columns = prop::collection::vec((value(), value(), value(), value()), 1..20);
    let curves = prop::collection::vec((columns, 0_usize..4, any::<bool>(), ".{0,8}"), 1..4);
    (curves, any::<bool>(), prop::option::of((value(), value()))).prop_map(
        |(curves, log, inset)| Panel {
            title: "any".to_owned(),
            y_scale: if log { Scale::log() } else { Scale::Linear },
            inset: inset.map(|(from, to)| Inset { from, to }),
            curves: curves
                .into_iter()
                .map(|(rows, stroke, marked, label)| Curve {
                    label,
                    color: PALETTE[stroke],
                    stroke: [
                        Stroke::Solid,
                        Stroke::Dashed,
                        Stroke::Dotted,
                        Stroke::DashDot,
                    ][stroke],
                    marker: marked.then_some(Marker::Triangle),
                    x: rows.iter().map(|row| row.0).collect(),
                    mean: rows.iter().map(|row| row.1).collect(),
                    low: rows.iter().map(|row| row.2).collect(),
                    high: rows.iter().map(|row| row.3).collect(),
                })
                .collect(),
            ..Panel::default()
        },
    )
}

proptest! {
    // Each case draws and encodes a whole page.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_data_give_a_figure_or_an_error(chart in any_panel()) {
        match panel(&chart) {
            Ok(figure) => {
                prop_assert!(figure.png.starts_with(b"\x89PNG\r\n\x1a\n"));
                prop_assert!(figure.svg.ends_with("</svg>\n"));
                let forbidden = |c: char| c.is_control() && c != '\n';
                prop_assert!(!figure.svg.contains(forbidden));
            }
            Err(error) => prop_assert!(matches!(
                error,
                Error::Empty { .. } | Error::Range { .. } | Error::Legend { .. }
            ), "{error}"),
        }
    }

    #[test]
    fn moderate_data_are_always_drawn_within_the_page(
        mean in prop::collection::vec(-1e6_f64..1e6, 1..30),
    ) {
        let figure = panel(&chart(vec![curve("a", Stroke::Dashed, 0, mean)])).unwrap();
        let path = figure.svg.lines().filter_map(|line| line.split_once(" d=\"M"));
        for (_, points) in path {
            for number in points.trim_end_matches("\"/>").split(['M', 'L', ',']) {
                let unit: i64 = number.parse().unwrap();
                prop_assert!((0..=15_000).contains(&unit));
            }
        }
    }
}
