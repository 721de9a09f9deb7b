//! Replays a scene as PNG.
//!
//! The bitmap backend draws at three times the size; averaging the nine pixels
//! of each result smooths the edges it leaves jagged.

use plotters::backend::{BitMapBackend, DrawingBackend};
use plotters::style::{Color as _, RGBColor};

use crate::Error;
use crate::font::{self, CAPITAL_HEIGHT};
use crate::frame::Point;
use crate::scene::{Anchor, Mark, Scene};
use crate::style::{Color, Marker};

/// Drawn pixels per pixel of the result, along each side.
const FINE: usize = 3;

/// Thinner lines need no joints at their corners.
const JOINTED_WIDTH: f64 = 1.5;

pub(crate) fn render(scene: &Scene) -> Result<Vec<u8>, Error> {
    let (width, height) = (scene.width as usize, scene.height as usize);
    let mut fine = vec![255; 3 * FINE * FINE * width * height];
    {
        let size = ((FINE * width) as u32, (FINE * height) as u32);
        let mut backend = BitMapBackend::with_buffer(&mut fine, size);
        for mark in &scene.marks {
            replay(&mut backend, mark)?;
        }
        backend.present().map_err(failed)?;
    }
    encode(&averaged(&fine, width, height), scene.width, scene.height)
}

fn replay(backend: &mut BitMapBackend<'_>, mark: &Mark) -> Result<(), Error> {
    match mark {
        Mark::Lines { runs, color, width } => {
            for run in runs {
                line(backend, run, *color, *width)?;
            }
            Ok(())
        }
        Mark::Area {
            outline,
            color,
            opacity,
        } => fill(backend, outline.iter().copied(), *color, *opacity),
        Mark::Text {
            text,
            at,
            size,
            color,
            anchor,
            turned,
        } => {
            let size = size * FINE as f64;
            let length = font::width(text, size);
            let start = match anchor {
                Anchor::Start => 0.0,
                Anchor::Middle => -length / 2.0,
                Anchor::End => -length,
            };
            let (dx, dy) = (
                start.round() as i32,
                (size * CAPITAL_HEIGHT / 2.0).round() as i32,
            );
            let (x0, y0) = placed(*at);
            let color = rgb(*color);
            let mut result = Ok(());
            font::cover(text, size, |x, y, coverage| {
                let (x, y) = (x + dx, y + dy);
                let pixel = if *turned {
                    (x0 + y, y0 - x)
                } else {
                    (x0 + x, y0 + y)
                };
                let shade = color.mix(coverage).to_backend_color();
                if result.is_ok() {
                    result = backend.draw_pixel(pixel, shade);
                }
            });
            result.map_err(failed)
        }
    }
}

/// A thick polyline as one rectangle per segment and a disc per corner: the
/// backend's own outline of a polyline leaves holes where it crosses itself.
fn line(
    backend: &mut BitMapBackend<'_>,
    points: &[Point],
    color: Color,
    width: f64,
) -> Result<(), Error> {
    let half = width / 2.0;
    for pair in points.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        let length = (x1 - x0).hypot(y1 - y0);
        if length == 0.0 {
            continue;
        }
        let (nx, ny) = ((y0 - y1) / length * half, (x1 - x0) / length * half);
        let sides = [
            (x0 + nx, y0 + ny),
            (x1 + nx, y1 + ny),
            (x1 - nx, y1 - ny),
            (x0 - nx, y0 - ny),
        ];
        fill(backend, sides.into_iter(), color, 1.0)?;
    }
    if width > JOINTED_WIDTH {
        for corner in points.iter().skip(1).take(points.len().saturating_sub(2)) {
            let disc = Marker::Circle.outline();
            let place = |(x, y): Point| (corner.0 + half * x, corner.1 + half * y);
            fill(backend, disc.into_iter().map(place), color, 1.0)?;
        }
    }
    Ok(())
}

fn fill(
    backend: &mut BitMapBackend<'_>,
    outline: impl Iterator<Item = Point>,
    color: Color,
    opacity: f64,
) -> Result<(), Error> {
    backend
        .fill_polygon(outline.map(placed), &rgb(color).mix(opacity))
        .map_err(failed)
}

/// Means over squares of `FINE` by `FINE` pixels, each RGB.
fn averaged(fine: &[u8], width: usize, height: usize) -> Vec<u8> {
    let mut coarse = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let sum: usize = (0..FINE * FINE)
                    .map(|k| {
                        let (fx, fy) = (FINE * x + k % FINE, FINE * y + k / FINE);
                        usize::from(fine[3 * (fy * FINE * width + fx) + channel])
                    })
                    .sum();
                coarse.push(((sum + FINE * FINE / 2) / (FINE * FINE)) as u8);
            }
        }
    }
    coarse
}

fn encode(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

fn placed((x, y): Point) -> (i32, i32) {
    let fine = |length: f64| (FINE as f64 * length).round() as i32;
    (fine(x), fine(y))
}

fn rgb(color: Color) -> RGBColor {
    RGBColor(color.red, color.green, color.blue)
}

fn failed(error: impl std::error::Error) -> Error {
    Error::Drawing {
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::style::{INK, Stroke};

    fn decode(bytes: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width, info.height, pixels)
    }

    #[test]
    fn pixels_survive_the_encoding() {
        let mut scene = Scene::new(30, 20, String::new());
        scene.rule((5.0, 10.0), (25.0, 10.0), INK, 4.0);
        let (width, height, pixels) = decode(&render(&scene).unwrap());
        assert_eq!((width, height), (30, 20));
        let at = |x: usize, y: usize| &pixels[3 * (30 * y + x)..][..3];
        assert_eq!(at(15, 10), [INK.red, INK.green, INK.blue]);
        assert_eq!(at(15, 3), [255; 3]);
        assert_eq!(at(2, 10), [255; 3]);
    }

    #[test]
    fn a_zigzag_has_no_holes_at_its_corners() {
        let mut scene = Scene::new(30, 30, String::new());
        let zigzag = vec![(5.0, 25.0), (15.0, 5.0), (16.0, 25.0)];
        scene.lines(&[zigzag], Stroke::Solid, INK, 4.0);
        let (_, _, pixels) = decode(&render(&scene).unwrap());
        for (x, y) in [(15, 5), (15, 10), (10, 15)] {
            assert_eq!(pixels[3 * (30 * y + x)], INK.red, "{x}, {y}");
        }
    }

    #[test]
    fn averaging_keeps_a_flat_colour_and_rounds_to_nearest() {
        assert_eq!(averaged(&[7; 27], 1, 1), [7; 3]);
        let mut fine = [0; 27];
        fine[0] = 255;
        assert_eq!(averaged(&fine, 1, 1), [28, 0, 0]);
    }
}
