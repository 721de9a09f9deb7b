//! Figures as pure functions of data: curves with bands, grids of charts that
//! share a legend, scatter plots, samples by name and heat maps, as SVG and PNG.
//!
//! A figure's bytes depend on its data alone: the font is embedded, nothing is
//! read from the system, and drawing is sequential. A chart is first laid out
//! as a list of marks, which two renderers replay, so both formats show the
//! same. Values that cannot be shown are said so rather than dropped: gaps
//! break a curve, and values at or below the floor of a logarithmic axis are
//! open markers at that floor, with a note.
//!
//! ```
//! use rankwise_figures::{Error, Panel, panel};
//!
//! let nothing = Panel { title: "Test Loss".into(), ..Panel::default() };
//! assert_eq!(panel(&nothing), Err(Error::Empty { title: "Test Loss".into() }));
//! assert_eq!(rankwise_figures::PALETTE.len(), 8);
//! ```

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod axis;
mod error;
mod figure;
mod font;
mod frame;
mod heat_map;
mod inset;
mod legend;
mod panel;
mod plot;
mod raster;
mod scatter;
mod scene;
mod strip;
mod style;
mod svg;
mod ticks;

pub use axis::{LOG_FLOOR, Scale};
pub use error::Error;
pub use figure::Figure;
pub use font::{FONT_FACE_CSS, FONT_FAMILY};
pub use heat_map::{HeatMap, heat_map, heat_maps};
pub use inset::Inset;
pub use panel::{Curve, Panel, grid, panel};
pub use scatter::{Group, Scatter, scatter, scatter_grid};
pub use strip::{Sample, Strip, strips};
pub use style::{Color, Marker, PALETTE, Stroke};
