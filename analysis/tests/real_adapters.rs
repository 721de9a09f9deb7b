//! Adapters that other people trained. They are not part of the repository: they are looked for in
//! `data/adapters` of the folder that `RANKWISE_SHARED` names, or of `shared` beside the repository.

use std::path::{Path, PathBuf};

use rankwise_analysis::{Audit, AuditOptions, FindingKind, audit};

/// Effective ranks (of σ²) from an independent NumPy pass are known to two decimals.
const ROUNDING: f64 = 0.005 + 1e-9;

/// Name; modules; minimum, mean and maximum over the modules of `effective_rank_energy`.
const KNOWN: [(&str, usize, [f64; 3]); 15] = [
    ("bert-base-r16", 24, [1.18, 3.32, 8.5]),
    ("deberta-v3-small-r16-tickets", 18, [1.09, 1.83, 3.76]),
    ("deberta-v3-small-r8-mcq", 12, [1.1, 2.08, 5.82]),
    ("distilgpt2-r16", 12, [1.2, 2.56, 3.87]),
    ("gemma3-270m-r4", 72, [1.3, 2.88, 3.9]),
    ("gpt-neo-125m-r8", 24, [1.0, 1.35, 2.01]),
    ("gpt2-r8-seqcls", 12, [1.27, 2.25, 3.67]),
    ("gpt2-r8-step1000", 12, [1.06, 1.21, 1.51]),
    ("gpt2-r8-step7500", 12, [1.01, 1.17, 1.58]),
    ("mt5-small-r8", 48, [1.0, 1.95, 5.71]),
    ("open-calm-1b-r1-f16", 24, [1.0, 1.0, 1.0]),
    ("vit-base-r16-age", 24, [4.62, 8.2, 11.94]),
    ("vit-base-r16-coco-epoch1", 24, [1.0, 1.65, 5.78]),
    ("vit-base-r16-coco-epoch9", 24, [1.09, 3.22, 6.16]),
    ("vit-base-r16-food101", 24, [1.51, 3.1, 6.75]),
];

/// The folder of adapters, or `None`, with the reason printed, where there is none.
fn adapters() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = std::env::var_os("RANKWISE_SHARED").map_or_else(beside, PathBuf::from);
    let folder = shared.join("data/adapters");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no folder {}", folder.display());
    None
}

fn audited(path: &Path) -> Audit {
    audit(path, &AuditOptions::default()).unwrap()
}

#[test]
fn effective_ranks_are_the_known_ones() {
    let Some(folder) = adapters() else { return };
    for (name, modules, known) in KNOWN {
        let audit = audited(&folder.join(name));
        let [adapter] = &audit.adapters[..] else {
            panic!("{name}: {:?}", audit.refused)
        };
        assert_eq!(adapter.modules.len(), modules, "{name}");
        let (_, found) = adapter
            .summary
            .measures
            .iter()
            .find(|(measure, _)| *measure == "effective_rank_energy")
            .unwrap();
        for (known, found) in known.into_iter().zip([found.min, found.mean, found.max]) {
            assert!(
                (known - found).abs() <= ROUNDING,
                "{name}: {found}, known {known}"
            );
        }
    }
}

#[test]
fn adapters_that_do_nothing_are_found_out() {
    let Some(folder) = adapters() else { return };
    let zero = &audited(&folder.join("minilm-r8-zeroB")).adapters[0];
    assert_eq!((zero.modules.len(), zero.summary.zero_updates), (18, 18));
    assert!(
        zero.findings
            .iter()
            .all(|finding| finding.kind == FindingKind::ZeroUpdate)
    );
    let nan = &audited(&folder.join("deberta-v3-small-r16-nan")).adapters[0];
    assert_eq!((nan.modules.len(), nan.summary.non_finite), (18, 18));
}

#[test]
fn one_pass_over_everything_names_what_it_refuses() {
    let Some(folder) = adapters() else { return };
    let audit = audited(&folder);
    let of = |part: &str| {
        let mut found = audit.adapters.iter().filter(|a| a.path.contains(part));
        found
            .next()
            .unwrap_or_else(|| panic!("{part}: {:?}", audit.refused))
    };
    assert_eq!(audit.adapters.len(), KNOWN.len() + 5);
    for (part, format, modules) in [
        ("roberta-base-mnli-loralib", "loralib", 24),
        ("sd15-lokr", "lycoris", 350),
        ("sd15-lora-disney", "cloneofsimo", 192),
    ] {
        let found = of(part);
        assert_eq!(
            (found.format, found.modules.len()),
            (format, modules),
            "{part}"
        );
    }
    for (part, reason) in [
        ("sd15-lora-disney", "the embedding of a text"),
        ("vit-base-r16-age", "trained as a whole (modules_to_save)"),
    ] {
        let mut of_part = audit
            .refused
            .iter()
            .filter(|refused| refused.path.contains(part));
        assert!(
            of_part.any(|refused| refused.reason.contains(reason)),
            "{part}: {:#?}",
            audit.refused
        );
    }
}
