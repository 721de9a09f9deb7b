//! A comparison as a section of a page.

use std::fmt::Write as _;

use rankwise_analysis::Comparison;
use rankwise_figures::Figure;

use super::{ComparisonReport, comparison_labels, comparison_title, list_cells, pair_module_cells};
use crate::report::{escape, html_table};
use crate::tables::Cells;

/// HTML: the findings, the figures (caption and drawing) without their font, and the tables.
pub fn comparison_section(
    comparison: &Comparison,
    over_time: bool,
    figures: &[(&str, Figure)],
) -> String {
    let labels = comparison_labels(comparison);
    let title = comparison_title(&labels, over_time);
    let mut text = format!("<section>\n<h2>{}</h2>\n<ul>\n", escape(&title));
    for finding in ComparisonReport::new(comparison, over_time).findings {
        let _ = writeln!(text, "<li>{}</li>", escape(&finding));
    }
    text.push_str("</ul>\n");
    for (caption, figure) in figures {
        let caption = escape(caption);
        let _ = write!(
            text,
            "<h3>{caption}</h3>\n<figure aria-label=\"{caption}\">\n{}\n</figure>\n",
            figure.svg_inline()
        );
    }
    let mut tables: Vec<(&str, Cells)> = vec![("Adapters", list_cells(comparison))];
    if labels.len() == 2 && !over_time {
        tables.push(("Modules", pair_module_cells(comparison)));
    }
    for (caption, cells) in tables {
        let _ = write!(text, "<h3>{caption}</h3>\n{}", html_table(&cells));
    }
    text.push_str("</section>\n");
    text
}
