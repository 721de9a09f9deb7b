//! The audit's page in a browser: its script sorts, colours and filters what was measured, whatever
//! the modules are called, and nothing is loaded from outside.

use std::fs;
use std::path::Path;
use std::process::Command;

use rankwise_analysis::{Audit, AuditOptions, PeftAdapter, audit};
use rankwise_paper::{PageHead, audit_page, audit_table};

/// A module named to break out of everything that a page puts it into.
const HOSTILE: &str =
    "x</script><script>document.title='broken'</script>\"'><img src=y onerror=alert(1)>&amp;σ";

/// One module with these singular values in 6 × 5, scale 1.
fn adapter(folder: &Path, module: &str, sigma: &[f32]) {
    let rank = sigma.len();
    let (mut a, mut b) = (vec![0.0; rank * 5], vec![0.0; 6 * rank]);
    for (i, &value) in sigma.iter().enumerate() {
        a[5 * i + i] = 1.0;
        b[rank * i + i] = value;
    }
    PeftAdapter {
        module: module.to_owned(),
        rank,
        inputs: 5,
        outputs: 6,
        alpha: rank as f64,
        a,
        b,
        bias: None,
    }
    .write(folder)
    .unwrap();
}

/// One adapter of four modules: effective ranks 2, 1, 3 and missing, Frobenius norms √2, 5, √3 and 0.
fn sample() -> Audit {
    let names = ["layers.0.q", "layers.1.q", HOSTILE, "layers.1.v"];
    let spectra: [&[f32]; 4] = [&[1.0, 1.0], &[5.0, 0.0], &[1.0; 3], &[0.0; 2]];
    let mut parts = names.iter().zip(spectra).map(|(name, sigma)| {
        let folder = tempfile::tempdir().unwrap();
        adapter(folder.path(), "m", sigma);
        let mut one = audit(folder.path(), &AuditOptions::default()).unwrap();
        let module = &mut one.adapters[0].modules[0];
        module.name = (*name).to_owned();
        module.layer = name.split('.').find_map(|part| part.parse().ok());
        for finding in &mut one.adapters[0].findings {
            finding.module = Some((*name).to_owned());
        }
        one
    });
    let mut whole = parts.next().unwrap();
    for part in parts {
        let [other] = <[_; 1]>::try_from(part.adapters).unwrap();
        whole.adapters[0].modules.extend(other.modules);
        whole.adapters[0].findings.extend(other.findings);
    }
    whole.adapters[0].path = format!("runs/{HOSTILE}");
    whole
}

fn page(audit: &Audit) -> String {
    let head = PageHead {
        command: format!("rankwise audit '{HOSTILE}'"),
        version: "0.0.0".to_owned(),
    };
    audit_page(audit, &head).unwrap()
}

/// The page after its script ran, as text, with what the browser's console said.
fn opened(html: &str, fragment: &str) -> Option<String> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok());
    let Some(browser) = found else {
        eprintln!("skipped: none of {names:?} is installed");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.html");
    fs::write(&path, html).unwrap();
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
        ])
        .args(["--disable-sync", "--enable-logging=stderr", "--dump-dom"])
        .arg("--virtual-time-budget=10000")
        .arg(format!(
            "--user-data-dir={}",
            folder.path().join("p").display()
        ))
        .arg(format!("file://{}#{fragment}", path.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("CONSOLE"))
        .collect();
    assert!(said.is_empty(), "{said:?}");
    let dom = String::from_utf8(output.stdout).unwrap();
    assert!(dom.contains("data-ready=\"yes\""), "the script did not end");
    assert!(!dom.contains("data-error"), "{dom}");
    Some(dom)
}

/// The values of an attribute, in the order of the page.
fn values<'a>(dom: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    let parts = dom.split(&start[..]).skip(1);
    parts.map(|part| part.split('"').next().unwrap()).collect()
}

#[test]
fn rows_are_sorted_with_the_missing_last() {
    let html = page(&sample());
    let Some(dom) = opened(&html, "") else { return };
    assert_eq!(values(&dom, "data-row"), ["0", "1", "2", "3"]);
    for (fragment, order) in [
        ("sort=effective_rank&order=ascending", ["1", "0", "2", "3"]),
        ("sort=effective_rank&order=descending", ["2", "0", "1", "3"]),
        ("sort=frobenius_norm&order=descending", ["1", "2", "0", "3"]),
    ] {
        let dom = opened(&html, fragment).unwrap();
        assert_eq!(values(&dom, "data-row"), order, "{fragment}");
        assert_eq!(values(&dom, "aria-sort").len(), 1, "{fragment}");
    }
    let dom = opened(&html, "filter=zero_update").unwrap();
    assert_eq!(values(&dom, "data-row"), ["3"]);
}

/// Cells are in the order of roles (q, the hostile one, v) and layers; v has no effective rank.
#[test]
fn the_heat_map_shows_the_measure_that_is_asked_for() {
    let html = page(&sample());
    for (fragment, expected) in [
        ("", vec![2.0, 1.0, 3.0]),
        ("measure=rank_budget", vec![2.0, 2.0, 3.0, 2.0]),
        (
            "measure=frobenius_norm",
            vec![2_f64.sqrt(), 5.0, 3_f64.sqrt(), 0.0],
        ),
    ] {
        let Some(dom) = opened(&html, fragment) else {
            return;
        };
        let heat = &dom[dom.find("<table class=\"heat\">").unwrap()..];
        let heat = &heat[..heat.find("</table>").unwrap()];
        let found = values(heat, "data-value");
        let found: Vec<f64> = found
            .into_iter()
            .map(|text| text.parse().unwrap())
            .collect();
        assert_eq!(found.len(), expected.len(), "{fragment}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            // The page keeps five digits.
            assert!(
                (found - expected).abs() <= 5e-5 * expected,
                "{fragment}: {found}"
            );
        }
    }
}

#[test]
fn hostile_names_stay_text_and_nothing_is_fetched() {
    let html = page(&sample());
    for text in ["http:", "https:", "src=\"", "@import", "url("] {
        assert!(
            !html
                .replace("http://www.w3.org/2000/svg", "")
                .contains(text),
            "{text}"
        );
    }
    assert!(html.contains("default-src 'none'"));
    assert_eq!(html.matches("<script").count(), 2, "a name became a script");
    assert!(!html.contains("<img"), "a name became markup");
    // Had one become either, the page's policy would have said so on the console.
    let Some(dom) = opened(&html, "") else { return };
    assert!(dom.contains("<title>Rank audit of "), "a name's script ran");
}

#[test]
fn tables_have_a_row_for_every_module() {
    let audit = sample();
    let table = audit_table(&audit).unwrap();
    assert_eq!(table.texts("name").unwrap()[2], HOSTILE);
    assert_eq!(table.texts("singular_values").unwrap()[1], "[5.0,0.0]");
    assert_eq!(table.numbers("rows").unwrap(), [6.0; 4]);
    assert!(table.numbers("effective_rank").unwrap()[3].is_nan());
    assert_eq!(
        table.numbers("energy_rank_99").unwrap(),
        [2.0, 1.0, 3.0, 0.0]
    );
}
