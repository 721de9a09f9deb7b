//! The audit's page in a browser: its script sorts, colours and filters what was measured, whatever
//! the modules are called, and nothing is loaded from outside.

mod browser;

use std::fs;
use std::path::Path;

use browser::opened;
use rankwise_analysis::{
    Audit, AuditOptions, FindingKind, PairOptions, PeftAdapter, audit, audit_pair,
};
use rankwise_paper::{PageHead, audit_page, audit_table, pair_page};

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

fn head() -> PageHead {
    PageHead {
        command: format!("rankwise audit '{HOSTILE}'"),
        version: "0.0.0".to_owned(),
    }
}

fn page(audit: &Audit) -> String {
    audit_page(audit, &head()).unwrap()
}

/// What a script beside the page's own sees when it clicks and types: `steps` calls `note` with what it
/// found. The copy of the page lets it run; its own policy would not.
fn driven(html: &str, steps: &str) -> Option<Vec<String>> {
    let policy = html.split("script-src ").nth(1).unwrap();
    let policy = policy.split(';').next().unwrap();
    let script = format!("<script>{HELPERS}(async () => {{ {steps} done(); }})();</script></body>");
    let copy = html
        .replacen(policy, "'unsafe-inline'", 1)
        .replacen("</body>", &script, 1);
    let dom = opened(&copy, "")?;
    let notes = dom
        .split("<pre id=\"notes\">")
        .nth(1)
        .expect("steps came to their end");
    let notes = notes.split("</pre>").next().unwrap();
    let text = notes.replace("&amp;", "&");
    Some(text.lines().map(str::to_owned).collect())
}

const HELPERS: &str = r#"
const notes = [];
const note = (value) => notes.push(String(value));
const done = () => {
  const place = document.createElement("pre");
  place.id = "notes";
  place.textContent = notes.join("\n");
  document.body.append(place);
};
const find = (selector) => document.querySelector(selector);
const rows = () => [...document.querySelectorAll("tr[data-row]")].map((row) => row.dataset.row).join(",");
const header = (id) => find(`th[data-id="${id}"] button`);
const heat = (name) => [...document.querySelectorAll(".heat td")].find((td) => td.title.startsWith(name + "\n"));
const chosen = () => [...document.querySelectorAll("[data-chosen]")].map((path) => path.dataset.chosen).join(",");
const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const focus = () => document.activeElement.title?.split("\n")[0];
const enter = (field, value, event) => { field.value = value; field.dispatchEvent(new Event(event, { bubbles: true })); };
const later = () => new Promise((resolve) => setTimeout(resolve, 100));
"#;

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
        let heat = &dom[dom.find("<table class=\"heat\"").unwrap()..];
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
fn headers_sort_and_the_filter_filters() {
    let steps = r##"
        header("effective_rank").click();
        note(rows());
        note(document.activeElement.closest("th").dataset.id);
        document.activeElement.click();
        note(rows());
        note(header("effective_rank").closest("th").getAttribute("aria-sort"));
        header("name").click();
        note(rows());
        enter(find(".filter"), "zero_update", "input");
        note(rows());
        note(decodeURIComponent(location.hash));
        enter(find(".filter"), "no such name", "input");
        note(rows() + find(".content").textContent);
        enter(find(".filter"), "", "input");
        enter(find(".measure"), "rank_budget", "change");
        note(heat("layers.1.v").textContent + " " + find(".heat caption").textContent);
    "##;
    let Some(notes) = driven(&page(&sample()), steps) else {
        return;
    };
    assert_eq!(
        notes,
        [
            "2,0,1,3",
            "effective_rank",
            "1,0,2,3",
            "ascending",
            "2,3,1,0",
            "3",
            "#sort=name&order=descending&filter=zero_update",
            "Nothing has this in its name, kind or findings.",
            "2 R by role and layer",
        ]
    );
}

/// The map's cells, by roles and layers: q at 0 and 1, the hostile one at neither, v at 1.
#[test]
fn a_cell_of_the_heat_map_leads_to_its_spectrum() {
    let steps = r##"
        note(chosen());
        heat("layers.1.q").click();
        note(chosen());
        note(find(".legend:last-of-type, .chart + .legend").textContent.includes("thick: layers.1.q"));
        note(focus());
        press("ArrowLeft");
        note(focus());
        press("Enter");
        note(chosen());
        press("ArrowDown");
        note(focus());
        press("ArrowRight");
        press("ArrowDown");
        note(focus());
        press(" ");
        note(chosen());
        note([...document.querySelectorAll(".heat td")].filter((td) => td.tabIndex === 0).length);
        heat("layers.0.q").click();
        note(find("[data-chosen]").getAttribute("d").split("L").length);
    "##;
    let Some(notes) = driven(&page(&sample()), steps) else {
        return;
    };
    assert_eq!(
        notes,
        [
            "",
            "1",
            "true",
            "layers.1.q",
            "layers.0.q",
            "0",
            // There is nothing below.
            "layers.0.q",
            // Past the empty cell of the hostile role.
            "layers.1.v",
            "3",
            "1",
            // Two singular values.
            "2",
        ]
    );
}

#[test]
fn an_adapter_of_several_opens_by_its_link() {
    let mut audit = sample();
    let mut other = sample().adapters.remove(0);
    other.path = "runs/other".to_owned();
    other.modules.truncate(1);
    audit.adapters.push(other);
    let steps = r##"
        note(rows());
        find('a[data-open="1"]').click();
        await later();
        note(rows());
        enter(find("input.overview"), "other", "input");
        note([...find("#overview").tBodies[0].rows].map((row) => row.hidden).join());
        note(find("#group-0").hidden + " " + find("#group-1").hidden);
        const modules = [...find("#overview").tHead.rows[0].cells].find((th) => th.textContent === "modules");
        const first = () => find("#overview").tBodies[0].rows[0].cells[0].textContent;
        modules.firstChild.click();
        note(first() === "other");
        modules.firstChild.click();
        note(first() === "other");
    "##;
    let Some(notes) = driven(&page(&audit), steps) else {
        return;
    };
    assert_eq!(
        notes,
        ["", "0", "true,false", "true false", "false", "true"]
    );
}

/// A click adds to the history what was looked at; Back and a link from elsewhere restore it.
#[test]
fn links_change_the_address() {
    let mut audit = sample();
    let mut other = sample().adapters.remove(0);
    other.path = "runs/other".to_owned();
    audit.adapters.push(other);
    let steps = r##"
        const open = () => [...document.querySelectorAll("details[open]")].map((place) => place.id).join(",");
        const address = () => decodeURIComponent(location.hash);
        const before = history.length;
        find('a[data-open="1"]').click();
        await later();
        note(open() + " " + address() + " " + (history.length - before));
        find('a[data-open="0"]').click();
        await later();
        note(open() + " " + address() + " " + (history.length - before));
        header("effective_rank").click();
        await later();
        note(address() + " " + (history.length - before));
        history.back();
        await later();
        note(open() + " " + address());
        history.back();
        await later();
        note(open() + " " + address());
        history.forward();
        await later();
        note(open() + " " + document.querySelectorAll("details[open] tr[data-row]").length);
        find("#finding-zero_update").open = true;
        await later();
        note(address() + " " + (history.length - before));
        location.hash = "#group-0";
        await later();
        note(open() + " " + address());
    "##;
    let Some(notes) = driven(&page(&audit), steps) else {
        return;
    };
    assert_eq!(
        notes,
        [
            "group-1 #open=1 1",
            "group-0,group-1 #open=0,1 2",
            "#sort=effective_rank&order=descending&open=0,1 2",
            "group-1 #open=1",
            " ",
            "group-1 4",
            "#open=finding-zero_update,1 2",
            "group-0 #open=0",
        ]
    );
}

/// A file of square float32 matrices.
fn checkpoint(path: &Path, matrices: &[(&str, [f32; 16])]) {
    let entry = |(at, (name, _)): (usize, &(&str, [f32; 16]))| {
        let (begin, end) = (64 * at, 64 * (at + 1));
        format!(r#""{name}":{{"dtype":"F32","shape":[4,4],"data_offsets":[{begin},{end}]}}"#)
    };
    let header: Vec<String> = matrices.iter().enumerate().map(entry).collect();
    let header = format!("{{{}}}", header.join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    let values = matrices.iter().flat_map(|(_, values)| values);
    bytes.extend(values.flat_map(|value| value.to_le_bytes()));
    fs::write(path, bytes).unwrap();
}

/// Of two matrices one changed in one direction, by σ = 3, the other in two, by 2 and 1.
#[test]
fn a_page_on_two_checkpoints_is_drawn_and_sorted() {
    let folder = tempfile::tempdir().unwrap();
    let [base, tuned] =
        ["base", "tuned"].map(|name| folder.path().join(name).with_extension("safetensors"));
    let names = ["layers.0.q.weight", "layers.1.q.weight"];
    let with = |entries: &[(usize, f32)]| {
        let mut values = [0.5_f32; 16];
        for &(at, change) in entries {
            values[at] += change;
        }
        values
    };
    checkpoint(&base, &[(names[0], with(&[])), (names[1], with(&[]))]);
    let changed = [
        (names[0], with(&[(0, 3.0)])),
        (names[1], with(&[(0, 2.0), (5, 1.0)])),
    ];
    checkpoint(&tuned, &changed);
    let audit = audit_pair(&base, &tuned, &PairOptions::default(), |_, _| {}).unwrap();
    let html = pair_page(&audit, &head()).unwrap();
    let steps = r##"
        note(rows());
        header("rank_above_noise").click();
        note(rows());
        note([...document.querySelectorAll("tr[data-row]")].map((row) => row.cells[0].textContent));
        note([...document.querySelectorAll(".heat td")].map((td) => td.dataset.value));
        enter(find(".measure"), "e_0", "change");
        note([...document.querySelectorAll(".heat td")].map((td) => td.dataset.value));
        note(document.querySelectorAll("path.floor").length);
        heat("layers.1.q.weight").click();
        note(chosen());
        note(document.activeElement.title.split("\n")[0]);
        press("ArrowLeft");
        press("Enter");
        note(chosen());
    "##;
    let Some(notes) = driven(&html, steps) else {
        return;
    };
    assert_eq!(
        notes,
        [
            "0,1",
            "1,0",
            "layers.1.q.weight,layers.0.q.weight",
            "1,2",
            "3,2",
            "2",
            "1",
            "layers.1.q.weight",
            "0",
        ]
    );
}

#[test]
fn every_number_and_every_finding_is_explained() {
    let html = page(&sample());
    for name in FindingKind::names() {
        assert!(html.contains(&format!("<dt>{name}</dt><dd>")), "{name}");
    }
    assert!(html.contains("<dt>zero_update</dt><dd>ΔW = 0: the module does nothing.</dd>"));
    // A meaning that takes several lines in the source is one sentence.
    let meaning = FindingKind::DefinitionsDisagree.meaning();
    assert!(
        meaning.contains("more than twice the smallest"),
        "{meaning}"
    );
    assert!(html.contains(meaning));
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
    assert_eq!(table.texts("method").unwrap(), ["lora"; 4]);
    assert_eq!(table.texts("role").unwrap()[1], "layers.q");
    // R·(5 + 6).
    assert_eq!(
        table.numbers("parameters").unwrap(),
        [22.0, 22.0, 33.0, 22.0]
    );
    assert!(table.numbers("effective_rank").unwrap()[3].is_nan());
    assert_eq!(
        table.numbers("energy_rank_99").unwrap(),
        [2.0, 1.0, 3.0, 0.0]
    );
}
