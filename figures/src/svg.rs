//! Replays a scene as SVG.

use std::fmt::Write;

use plotters::backend::{DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontTransform, IntoFont, RGBColor, ShapeStyle, TextStyle};

use crate::Error;
use crate::font::{CAPITAL_HEIGHT, FONT_FACE_CSS, FONT_FAMILY, X_HEIGHT};
use crate::frame::Point;
use crate::scene::{Anchor, Mark, Scene};
use crate::style::Color;

/// The backend counts in whole units; tenths of a pixel keep curves smooth
/// when the figure is enlarged.
const UNITS: f64 = 10.0;

/// The backend writes a font size divided by this.
const SIZE_FACTOR: f64 = 1.24;

/// The element that embeds the font.
pub(crate) fn style_element() -> String {
    format!("<style>{}</style>\n", *FONT_FACE_CSS)
}

pub(crate) fn render(scene: &Scene) -> Result<String, Error> {
    let size = (
        units(scene.width.into()) as u32,
        units(scene.height.into()) as u32,
    );
    let mut drawn = String::new();
    {
        let mut backend = SVGBackend::with_string(&mut drawn, size);
        for mark in &scene.marks {
            replay(&mut backend, mark)?;
        }
        backend.present().map_err(failed)?;
    }
    let body = drawn
        .split_once('\n')
        .map_or(drawn.as_str(), |(_, body)| body);

    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" \
         viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\" stroke-linejoin=\"round\">",
        scene.width,
        scene.height,
        size.0,
        size.1,
        escaped(&scene.title)
    );
    svg.push_str(&style_element());
    join_polylines(body, &mut svg);
    Ok(svg)
}

fn replay(backend: &mut SVGBackend<'_>, mark: &Mark) -> Result<(), Error> {
    match mark {
        Mark::Lines { runs, color, width } => {
            let style = ShapeStyle {
                color: rgb(*color).into(),
                filled: false,
                stroke_width: units(*width) as u32,
            };
            for run in runs {
                let points = run.iter().map(|point| placed(*point));
                backend.draw_path(points, &style).map_err(failed)?;
            }
        }
        Mark::Area {
            outline,
            color,
            opacity,
        } => {
            let style = plotters::style::Color::mix(&rgb(*color), *opacity);
            let points = outline.iter().map(|point| placed(*point));
            backend.fill_polygon(points, &style).map_err(failed)?;
        }
        Mark::Text {
            text,
            at,
            size,
            color,
            anchor,
            turned,
        } => {
            let horizontal = match anchor {
                Anchor::Start => HPos::Left,
                Anchor::Middle => HPos::Center,
                Anchor::End => HPos::Right,
            };
            // `VPos::Center` puts the middle of a lower-case x at the anchor.
            let drop = size * (CAPITAL_HEIGHT - X_HEIGHT) / 2.0;
            let (at, transform) = if *turned {
                ((at.0 + drop, at.1), FontTransform::Rotate270)
            } else {
                ((at.0, at.1 + drop), FontTransform::None)
            };
            let font = (FONT_FAMILY, size * UNITS * SIZE_FACTOR).into_font();
            let color = rgb(*color);
            let style = TextStyle::from(font.transform(transform))
                .color(&color)
                .pos(Pos::new(horizontal, VPos::Center));
            backend
                .draw_text(text, &style, placed(at))
                .map_err(failed)?;
        }
    }
    Ok(())
}

/// Turns polylines into paths, and neighbours of one style into one path: a
/// dashed curve is then one element, at a quarter of the size.
fn join_polylines(body: &str, svg: &mut String) {
    let mut open: Option<&str> = None;
    for line in body.lines() {
        let polyline = line
            .strip_prefix("<polyline ")
            .and_then(|rest| rest.strip_suffix(" \"/>"))
            .and_then(|rest| rest.split_once(" points=\""));
        let style = polyline.map(|(style, _)| style);
        if open != style {
            if open.is_some() {
                svg.push_str("\"/>\n");
            }
            if let Some(style) = style {
                let _ = write!(svg, "<path {style} d=\"");
            }
            open = style;
        }
        match polyline {
            Some((_, points)) => {
                let _ = write!(svg, "M{}", points.replace(' ', "L"));
            }
            None => {
                svg.push_str(line);
                svg.push('\n');
            }
        }
    }
}

fn units(length: f64) -> f64 {
    (UNITS * length).round()
}

fn placed((x, y): Point) -> (i32, i32) {
    (units(x) as i32, units(y) as i32)
}

fn rgb(color: Color) -> RGBColor {
    RGBColor(color.red, color.green, color.blue)
}

fn escaped(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn failed(error: impl std::error::Error) -> Error {
    Error::Drawing {
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_polylines_of_one_style_become_one_path() {
        let body = "<polyline s=\"1\" points=\"1,2 3,4 \"/>\n\
                    <polyline s=\"1\" points=\"5,6 7,8 \"/>\n\
                    <polyline s=\"2\" points=\"0,0 1,1 \"/>\n\
                    </svg>\n";
        let mut svg = String::new();
        join_polylines(body, &mut svg);
        assert_eq!(
            svg,
            "<path s=\"1\" d=\"M1,2L3,4M5,6L7,8\"/>\n<path s=\"2\" d=\"M0,0L1,1\"/>\n</svg>\n"
        );
    }

    #[test]
    fn titles_cannot_break_out_of_their_attribute() {
        let scene = Scene::new(10, 10, "a\"<b>&\n".to_owned());
        let svg = render(&scene).unwrap();
        assert!(svg.contains("aria-label=\"a&quot;&lt;b&gt;&amp; \""));
    }
}
