//! A finished figure, and the page its charts share.

use crate::Error;
use crate::frame::Frame;
use crate::legend::Legend;
use crate::scene::Scene;
use crate::{raster, svg};

/// A figure in both formats; the same data give the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// A standalone SVG document with its font embedded.
    pub svg: String,
    /// The same figure as an 8-bit RGB PNG, 1500 pixels wide.
    pub png: Vec<u8>,
}

impl Figure {
    pub(crate) fn of(scene: &Scene) -> Result<Self, Error> {
        Ok(Self {
            svg: svg::render(scene)?,
            png: raster::render(scene)?,
        })
    }

    /// The SVG without its font, for a page that holds
    /// [`FONT_FACE_CSS`](crate::FONT_FACE_CSS) once.
    pub fn svg_inline(&self) -> String {
        self.svg.replacen(&svg::style_element(), "", 1)
    }
}

const WIDTH: u32 = 1500;
const MARGIN: f64 = 18.0;
const CELL_GAP: f64 = 26.0;

/// Bounds the memory of a page: about 400 MB while sixteen charts in one
/// column are drawn.
const MOST_CHARTS: usize = 16;
const MOST_COLUMNS: usize = 4;

/// Sets `charts` in rows of `columns` with `legend` below; `draw` fills the
/// cell of each chart.
pub(crate) fn page<C>(
    charts: &[C],
    columns: usize,
    legend: &Legend,
    title: impl Fn(&C) -> &str,
    mut draw: impl FnMut(&mut Scene, &C, Frame) -> Result<(), Error>,
) -> Result<Scene, Error> {
    let count = |what, most, found| {
        if (1..=most).contains(&found) {
            Ok(())
        } else {
            Err(Error::Count { what, most, found })
        }
    };
    count("charts in a figure", MOST_CHARTS, charts.len())?;
    count("columns in a figure", MOST_COLUMNS, columns)?;

    let columns = columns.min(charts.len());
    let rows = charts.len().div_ceil(columns);
    let room = f64::from(WIDTH) - 2.0 * MARGIN;
    let cell_width = (room - CELL_GAP * (columns - 1) as f64) / columns as f64;
    // A lone chart at the proportion of the others would fill a screen.
    let cell_height = cell_width * if columns == 1 { 0.55 } else { 0.78 };
    let legend_height = legend.height(room);
    let charts_height = rows as f64 * (cell_height + CELL_GAP);
    let height = MARGIN + charts_height + legend_height + MARGIN;

    let titles: Vec<&str> = charts.iter().map(title).collect();
    let mut scene = Scene::new(WIDTH, height.ceil() as u32, titles.join("; "));
    for (index, chart) in charts.iter().enumerate() {
        let left = MARGIN + (index % columns) as f64 * (cell_width + CELL_GAP);
        let top = MARGIN + (index / columns) as f64 * (cell_height + CELL_GAP);
        let cell = Frame {
            left,
            top,
            right: left + cell_width,
            bottom: top + cell_height,
        };
        draw(&mut scene, chart, cell)?;
    }
    let top = MARGIN + charts_height;
    let frame = Frame {
        left: MARGIN,
        top,
        right: MARGIN + room,
        bottom: top + legend_height,
    };
    legend.draw(&mut scene, frame);
    Ok(scene)
}
