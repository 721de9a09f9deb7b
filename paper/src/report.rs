use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use rankwise_data::write_atomic;
use rankwise_figures::{FONT_FACE_CSS, FONT_FAMILY};

use crate::reproduce::Report;
use crate::tables::{Cells, comparison_cells, link_cells, run_cells};

/// Writes `report.html` (self-contained), `report.md` and `report.json` into `out`.
///
/// # Errors
/// If a file cannot be written.
pub fn write_report(report: &Report, out: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(report)?;
    for (name, text) in [
        ("report.json", json),
        ("report.md", markdown(report)),
        ("report.html", html(report)),
    ] {
        write_atomic(&out.join(name), |file| file.write_all(text.as_bytes()))?;
    }
    Ok(())
}

const TITLE: &str = "rankwise: what rank does in low-rank adaptation";

const INTRODUCTION: &str = "Random ReLU networks for the theorem (D = 16); Banking77 features of \
    all-MiniLM-L6-v2 for training: a frozen random head of 77 × 384 and its update by every method \
    of the paper's Figure 1, R ∈ {16, 32, 64}, three seeds, 60 epochs.";

fn sections(report: &Report) -> Vec<(&'static str, Cells)> {
    vec![
        (
            "At the end of training (mean ± standard deviation over seeds)",
            { comparison_cells(&report.comparison.end) },
        ),
        (
            "At equal training loss",
            comparison_cells(&report.comparison.equal),
        ),
        (
            "Rank measures against outcomes, over runs",
            link_cells(&report.links),
        ),
        ("Every run", run_cells(&report.runs)),
    ]
}

fn markdown(report: &Report) -> String {
    let mut text = format!(
        "# {TITLE}\n\n{INTRODUCTION}\n\nTo repeat it: `{}`\n\n",
        report.command
    );
    text.push_str("## Findings\n\n");
    for finding in &report.findings {
        let _ = writeln!(text, "- {finding}");
    }
    for (name, caption) in &report.figures {
        let _ = write!(text, "\n## {caption}\n\n![{caption}](figures/{name}.png)\n");
    }
    for (title, (header, rows)) in sections(report) {
        let _ = write!(text, "\n## {title}\n\n| {} |\n|", header.join(" | "));
        text.push_str(&"---|".repeat(header.len()));
        text.push('\n');
        for row in rows {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
    }
    let _ = write!(text, "\n{}\n", report.attribution);
    text
}

fn html(report: &Report) -> String {
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{TITLE}</title>\n<style>\n\
         {css}\nbody {{ font-family: \"{FONT_FAMILY}\", sans-serif; line-height: 1.5; \
         max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}\n\
         h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.2rem; margin-top: 2.5rem; }}\n\
         figure {{ margin: 1rem 0; }} svg {{ width: 100%; height: auto; }}\n\
         .wide {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: 0.8rem; }}\n\
         th, td {{ padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; \
         white-space: nowrap; }}\n\
         th:first-child, td:first-child {{ text-align: left; }}\n\
         code {{ background: #f3f3f3; padding: 0.1rem 0.3rem; }}\n</style>\n</head>\n<body>\n\
         <h1>{TITLE}</h1>\n<p>{}</p>\n<p>To repeat it: <code>{}</code> (version {}, seed {}).</p>\n",
        escape(INTRODUCTION),
        escape(&report.command),
        report.version,
        report.seed,
        css = *FONT_FACE_CSS,
    );
    text.push_str("<h2>Findings</h2>\n<ul>\n");
    for finding in &report.findings {
        let _ = writeln!(text, "<li>{}</li>", escape(finding));
    }
    text.push_str("</ul>\n");
    for ((name, caption), figure) in report.figures.iter().zip(&report.drawn) {
        let caption = escape(caption);
        let _ = write!(
            text,
            "<h2>{caption}</h2>\n<figure id=\"{name}\" aria-label=\"{caption}\">\n{}\n</figure>\n",
            figure.svg_inline()
        );
    }
    for (title, cells) in sections(report) {
        let _ = write!(text, "<h2>{}</h2>\n{}", escape(title), html_table(&cells));
    }
    let _ = write!(
        text,
        "<p><small>{}</small></p>\n</body>\n</html>\n",
        escape(&report.attribution)
    );
    text
}

/// Cells as a table of a page.
pub(crate) fn html_table((header, rows): &Cells) -> String {
    let mut text = "<div class=\"wide\"><table>\n<tr>".to_owned();
    for cell in header {
        let _ = write!(text, "<th>{}</th>", escape(cell));
    }
    text.push_str("</tr>\n");
    for row in rows {
        text.push_str("<tr>");
        for cell in row {
            let _ = write!(text, "<td>{}</td>", escape(cell));
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</table></div>\n");
    text
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
