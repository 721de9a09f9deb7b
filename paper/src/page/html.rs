use std::fmt::Write as _;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use rankwise_figures::FONT_FACE_CSS;

use super::data;
use super::model::{Cell, Findings, Group, Page, Plain};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Findings of one kind that are in the page from the start; the script adds others.
pub(super) const FINDINGS_AT_ONCE: usize = 100;

/// Up to this many rows, a page without scripts has them all.
const ROWS_WITHOUT_SCRIPT: usize = 2_000;

/// The whole page.
pub(crate) fn html(page: &Page<'_>) -> anyhow::Result<String> {
    html_with(page, &[])
}

/// The whole page, with further tables below what was refused.
pub(crate) fn html_with(page: &Page<'_>, below: &[(String, Plain)]) -> anyhow::Result<String> {
    let mut out = String::new();
    // Nothing is loaded, and no script runs but the one whose digest this is.
    let digest = BASE64_STANDARD.encode(Sha256::digest(SCRIPT));
    let (font, font_face) = match page.figures.is_empty() {
        true => ("", ""),
        false => (" font-src data:;", FONT_FACE_CSS.as_str()),
    };
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         script-src 'sha256-{digest}'; style-src 'unsafe-inline';{font} base-uri 'none'; \
         form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{font_face}{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <p class=\"soft\"><code>{}</code> · rankwise {}</p>\n",
        escape(&page.head.command),
        escape(&page.head.version),
        title = escape(&page.title),
    )?;
    for note in &page.notes {
        writeln!(out, "<p>{}</p>", escape(note))?;
    }
    if let Some(own) = &page.findings {
        findings(&mut out, own)?;
    }
    if !page.sentences.is_empty() {
        out.push_str("<h2>Findings</h2>\n<ul>\n");
        for sentence in &page.sentences {
            writeln!(out, "<li>{}</li>", escape(sentence))?;
        }
        out.push_str("</ul>\n");
    }
    for (index, (title, table)) in page.tables.iter().enumerate() {
        writeln!(out, "<h2>{}</h2>", escape(title))?;
        plain(&mut out, table, &format!("table-{index}"))?;
    }
    for (caption, drawing) in &page.figures {
        let caption = escape(caption);
        writeln!(
            out,
            "<h2>{caption}</h2>\n<figure aria-label=\"{caption}\">\n{drawing}</figure>"
        )?;
    }
    if let Some(overview) = &page.overview {
        write!(
            out,
            "<h2>Overview</h2>\n<div class=\"controls\" hidden><label>Filter <input type=\"search\" \
             class=\"overview\" placeholder=\"filter {}\"></label></div>\n",
            page.noun
        )?;
        plain(&mut out, overview, "overview")?;
    }
    // A page without columns has no groups to show.
    if !page.columns.is_empty() {
        let title = match page.groups.len() {
            1 => "Modules",
            _ => "Each",
        };
        writeln!(out, "<h2>{title}</h2>")?;
    }
    let rows: usize = page.groups.iter().map(|group| group.rows.len()).sum();
    for (index, own) in page.groups.iter().enumerate() {
        group(&mut out, page, own, index, rows <= ROWS_WITHOUT_SCRIPT)?;
    }
    if page.groups.is_empty() && !page.columns.is_empty() {
        out.push_str("<p>Nothing could be audited.</p>\n");
    }
    if !page.refused.rows.is_empty() {
        writeln!(out, "<h2>Refused ({})</h2>", page.refused.rows.len())?;
        plain(&mut out, &page.refused, "refused")?;
    }
    for (index, (title, table)) in below.iter().enumerate() {
        writeln!(out, "<h2>{}</h2>", escape(title))?;
        plain(&mut out, table, &format!("below-{index}"))?;
    }
    out.push_str("<h2>What the numbers mean</h2>\n<dl>\n");
    for (name, meaning) in &page.glossary {
        writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(meaning))?;
    }
    out.push_str("</dl>\n<script type=\"application/json\" id=\"data\">");
    out.push_str(&data::json(page)?);
    write!(
        out,
        "</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )?;
    Ok(out)
}

fn findings(out: &mut String, all: &[Findings]) -> std::fmt::Result {
    let total: usize = all.iter().map(|own| own.rows.len()).sum();
    writeln!(out, "<h2>Findings ({total})</h2>")?;
    if all.is_empty() {
        out.push_str("<p>Nothing deserves attention.</p>\n");
    }
    for own in all {
        let kind = escape(own.kind);
        let count = own.rows.len();
        write!(
            out,
            "<details id=\"finding-{kind}\"><summary><span class=\"severity {severity}\">{severity}\
             </span> {} <span class=\"count\">{count}</span></summary>\n\
             <div class=\"wide\"><table><thead><tr>",
            kind.replace('_', " "),
            severity = escape(own.severity),
        )?;
        for cell in &own.header {
            write!(out, "<th scope=\"col\" class=\"t\">{}</th>", escape(cell))?;
        }
        out.push_str("</tr></thead><tbody>\n");
        for row in own.rows.iter().take(FINDINGS_AT_ONCE) {
            out.push_str("<tr>");
            for cell in row {
                write!(out, "<td class=\"t wrap\">{}</td>", escape(cell))?;
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>\n");
        if count > FINDINGS_AT_ONCE {
            writeln!(
                out,
                "<noscript><p>The first {FINDINGS_AT_ONCE} of {count}.</p></noscript>"
            )?;
        }
        out.push_str("</details>\n");
    }
    Ok(())
}

fn group(
    out: &mut String,
    page: &Page<'_>,
    own: &Group,
    index: usize,
    has_plain: bool,
) -> std::fmt::Result {
    let open = if page.groups.len() == 1 { " open" } else { "" };
    write!(
        out,
        "<details id=\"group-{index}\"{open}><summary><strong>{}</strong> <span class=\"soft\">{} \
         rows",
        escape(&own.title),
        own.rows.len()
    )?;
    match own.findings {
        0 => {}
        1 => out.push_str(", <span class=\"count\">1 finding</span>"),
        count => write!(out, ", <span class=\"count\">{count} findings</span>")?,
    }
    out.push_str("</span></summary>\n");
    for note in &own.notes {
        writeln!(out, "<p class=\"soft\">{}</p>", escape(note))?;
    }
    out.push_str("<div class=\"body\"></div>\n<noscript>");
    if has_plain {
        out.push_str("<div class=\"wide\"><table><thead><tr>");
        for column in &page.columns {
            write!(out, "<th scope=\"col\">{}</th>", escape(column.label))?;
        }
        out.push_str("</tr></thead><tbody>\n");
        for row in &own.rows {
            out.push_str("<tr>");
            row.cells.iter().try_for_each(|one| cell(out, one))?;
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>");
    } else {
        out.push_str("<p>The rows are drawn by a script; they are in the CSV file too.</p>");
    }
    out.push_str("</noscript>\n</details>\n");
    Ok(())
}

fn plain(out: &mut String, table: &Plain, id: &str) -> std::fmt::Result {
    write!(
        out,
        "<div class=\"wide\"><table id=\"{id}\" class=\"plain\"><thead><tr>"
    )?;
    for (column, name) in table.header.iter().enumerate() {
        let first = table.rows.first().map(|row| &row[column]);
        let class = match first {
            Some(Cell::Number(_) | Cell::Told(..)) => "",
            _ => " class=\"t\"",
        };
        write!(out, "<th scope=\"col\"{class}>{}</th>", escape(name))?;
    }
    out.push_str("</tr></thead><tbody>\n");
    for row in &table.rows {
        out.push_str("<tr>");
        row.iter().try_for_each(|one| cell(out, one))?;
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    Ok(())
}

fn cell(out: &mut String, cell: &Cell) -> std::fmt::Result {
    match cell {
        Cell::Text(text) => write!(out, "<td class=\"t wrap\">{}</td>", escape(text)),
        Cell::Number(None) => write!(out, "<td data-v=\"\">–</td>"),
        Cell::Number(Some(value)) => write!(out, "<td data-v=\"{value}\">{}</td>", short(*value)),
        Cell::Told(value, text) => {
            write!(out, "<td data-v=\"{value}\">{}</td>", escape(text))
        }
        Cell::Link(text, index) => write!(
            out,
            "<td class=\"t wrap\"><a href=\"#group-{index}\" data-open=\"{index}\">{}</a></td>",
            escape(text)
        ),
    }
}

/// Four digits, as the script shows them.
fn short(value: f64) -> String {
    let size = value.abs();
    if value.fract() == 0.0 && size < 1e9 {
        format!("{value}")
    } else if (1e-3..1e5).contains(&size) {
        let digits = (3 - size.log10().floor() as i32).max(0) as usize;
        format!("{value:.digits$}")
    } else {
        format!("{value:.2e}")
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // No HTML document may hold it.
            '\0' => out.push('\u{fffd}'),
            _ => out.push(c),
        }
    }
    out
}
