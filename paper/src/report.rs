use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use rankwise_data::write_atomic;
use rankwise_figures::FONT_FACE_CSS;

use crate::audit::glossary;
use crate::link::RANK_MEASURES;
use crate::numbers::{decimals, words};
use crate::reproduce::Report;
use crate::tables::{Cells, comparison_cells, difference_cells, link_cells, run_cells};

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

const INTRODUCTION: &str = "Random ReLU networks for the theorem. For training, Banking77 features of \
    all-MiniLM-L6-v2: a frozen random head and its update by every method of the paper's Figure 1.";

/// What stands below a table of differences.
pub const DIFFERENCES: &str = "Mean ± standard error of the differences of the same seed; *: Student's 95 % interval \
    leaves zero out.";

const STYLE: &str = include_str!("page/page.css");

fn sections(report: &Report) -> Vec<(String, Cells)> {
    let comparison = &report.comparison;
    let spread = "mean ± standard error over n seeds";
    vec![
        (
            format!("At the end of training ({spread})"),
            comparison_cells(&comparison.end),
        ),
        (
            format!(
                "At equal training loss, {} ({spread})",
                decimals(comparison.loss_level, 3)
            ),
            comparison_cells(&comparison.equal_loss),
        ),
        (
            format!(
                "At equal training accuracy, {} % ({spread})",
                decimals(comparison.accuracy_level, 2)
            ),
            comparison_cells(&comparison.equal_accuracy),
        ),
        (
            format!("Methods against LoRA of the same R. {DIFFERENCES}"),
            difference_cells(comparison),
        ),
        (
            "Rank measures against outcomes, over runs".to_owned(),
            link_cells(&report.links),
        ),
        ("Every run".to_owned(), run_cells(&report.runs)),
    ]
}

/// What the report's words mean.
fn meanings() -> Vec<(String, String)> {
    let own = [
        ("ΔW", "what training has added to the frozen weight"),
        ("R", "the rank that a low-rank update's factors allow"),
        ("λ", "weight of R-LoRA's and RM-LoRA's regulariser (Eq. 10)"),
        (
            "r̂",
            "directions that one step of GM-LoRA or RM-LoRA moves (Algorithm 1)",
        ),
        ("train loss, test loss", "mean cross-entropy"),
        ("train %, test %", "accuracy, per cent"),
        (
            "gap",
            "train % less test %, which the paper calls generalisation error: a method that has fitted less has a \
             smaller one without generalising better",
        ),
        (
            "at equal training loss",
            "each run where its training loss first comes down to the highest of the runs' lowest, \
             interpolated between epochs; n counts the runs that come from above it",
        ),
        (
            "at equal training accuracy",
            "each run where its training accuracy first comes up to the lowest of the runs' highest",
        ),
        (
            "generalises better",
            "higher test accuracy and lower test loss than LoRA at the end, at equal training loss and \
             at equal training accuracy, each beyond its interval; worse: the opposite",
        ),
        (
            "± standard error",
            "s/√n, where s is the sample's standard deviation over n seeds",
        ),
        (
            "Student's 95 % interval",
            "mean ± t · standard error of differences of the same seed, t = 4.30 for three seeds",
        ),
        (
            "Spearman ρ, Kendall τ",
            "rank correlations over runs; intervals by the bootstrap over configurations",
        ),
        (
            "orth. loss, floor",
            "‖ΔW ΔWᵀ − I‖²_F (the paper's Table 5), and what an update of rank R cannot go below",
        ),
        (
            "measured",
            "E‖f(x) − f̄(x)‖₂ of the constructed adapters over the sample",
        ),
        (
            "literal, corrected, spectral, tail",
            "bounds of Theorem 3.1: Eq. 8 as printed, Eq. 8 with the β that its proof needs, the \
             recursion in spectral norms, the bound from the adapters as they are",
        ),
        (
            "beyond rounding",
            "by more than the measured rounding of the adapted layers and 10⁻¹² of the output",
        ),
    ];
    let measures = glossary();
    let measures = measures
        .into_iter()
        .filter(|(name, _)| name.starts_with('σ') || RANK_MEASURES.contains(&name.as_str()));
    let own = own.map(|(name, meaning)| (name.to_owned(), meaning.to_owned()));
    own.into_iter()
        .chain(measures.map(|(name, meaning)| (words(&name), meaning)))
        .collect()
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
    for (title, pairs) in [("Settings", &report.settings), ("Words", &meanings())] {
        let _ = write!(text, "\n## {title}\n\n");
        for (name, value) in pairs {
            let _ = writeln!(text, "- **{name}**: {value}");
        }
    }
    let _ = write!(text, "\n{}\n", report.attribution);
    text
}

fn html(report: &Report) -> String {
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{TITLE}</title>\n<style>\n{}{STYLE}</style>\n</head>\n<body>\n\
         <h1>{TITLE}</h1>\n<p>{}</p>\n<p>To repeat it: <code>{}</code> (version {}).</p>\n",
        *FONT_FACE_CSS,
        escape(INTRODUCTION),
        escape(&report.command),
        report.version,
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
        let _ = write!(text, "<h2>{}</h2>\n{}", escape(&title), html_table(&cells));
    }
    for (title, pairs) in [
        ("Settings", &report.settings),
        ("What the words mean", &meanings()),
    ] {
        let _ = writeln!(text, "<h2>{title}</h2>\n<dl>");
        for (name, value) in pairs {
            let _ = writeln!(text, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
        }
        text.push_str("</dl>\n");
    }
    let _ = write!(
        text,
        "<p class=\"soft\">{}</p>\n</body>\n</html>\n",
        escape(&report.attribution)
    );
    text
}

/// Cells as a table of a page.
pub(crate) fn html_table((header, rows): &Cells) -> String {
    let mut text = "<div class=\"wide\"><table class=\"plain\"><thead>\n<tr>".to_owned();
    for (column, cell) in header.iter().enumerate() {
        let class = if column == 0 { " class=\"t\"" } else { "" };
        let _ = write!(text, "<th scope=\"col\"{class}>{}</th>", escape(cell));
    }
    text.push_str("</tr></thead><tbody>\n");
    for row in rows {
        text.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let class = if column == 0 { " class=\"t\"" } else { "" };
            let _ = write!(text, "<td{class}>{}</td>", escape(cell));
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody></table></div>\n");
    text
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Comparison;

    fn report() -> Report {
        Report {
            command: "rankwise reproduce --out '<b>&'".to_owned(),
            version: "0.0.0".to_owned(),
            seed: 1,
            settings: vec![("λ".to_owned(), "1e-4 (RM-LoRA)".to_owned())],
            attribution: "Data by somebody".to_owned(),
            findings: vec!["p < 0.05".to_owned()],
            theory: Vec::new(),
            runs: Vec::new(),
            comparison: Comparison {
                loss_level: 0.4314,
                accuracy_level: 92.5,
                end: Vec::new(),
                equal_loss: Vec::new(),
                equal_accuracy: Vec::new(),
                against_lora: Vec::new(),
                diverged: Vec::new(),
            },
            links: Vec::new(),
            figures: Vec::new(),
            drawn: Vec::new(),
        }
    }

    #[test]
    fn the_page_has_a_dark_mode_settings_and_every_heading_explained() {
        let report = report();
        let page = html(&report);
        assert!(page.contains("@media (prefers-color-scheme: dark)"));
        assert!(page.contains("<dt>λ</dt><dd>1e-4 (RM-LoRA)</dd>"));
        assert!(page.contains("&lt;b&gt;&amp;") && !page.contains("<b>"));
        assert!(page.contains("<h2>At equal training accuracy, 92.50 %"));
        let known: Vec<String> = meanings().into_iter().map(|(name, _)| name).collect();
        let plain = [
            "method", "epoch", "seconds", "run", "read", "note", "outcome", "runs", "measure",
        ];
        for (_, (header, _)) in sections(&report) {
            for word in header {
                let is_explained = known
                    .iter()
                    .any(|name| name.contains(word.trim_end_matches(" pp")));
                let is_plain = plain
                    .iter()
                    .any(|plain| word.split(' ').any(|part| part == *plain));
                assert!(is_explained || is_plain, "{word}");
            }
        }
        let text = markdown(&report);
        assert!(text.contains("- **λ**: 1e-4 (RM-LoRA)") && text.contains("- **gap**: "));
    }
}
