//! Draws every kind of figure from made-up data:
//!
//!     cargo run --release -p rankwise-figures --example gallery -- FOLDER

use std::error::Error;
use std::path::Path;

use rankwise_figures::{
    Color, Curve, Figure, Group, Inset, Marker, PALETTE, Panel, Scale, Scatter, Stroke, grid,
    panel, scatter, scatter_grid,
};

const METHODS: [(&str, Color, Marker); 4] = [
    ("LoRA", PALETTE[0], Marker::Circle),
    ("R-LoRA", PALETTE[1], Marker::Square),
    ("GM-LoRA", PALETTE[2], Marker::Triangle),
    ("RM-LoRA", PALETTE[3], Marker::Diamond),
];

const RANKS: [(u32, Stroke); 3] = [
    (32, Stroke::Solid),
    (64, Stroke::Dashed),
    (80, Stroke::DashDot),
];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: gallery FOLDER")?;
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder)?;

    let training = [
        (
            "Test Loss v.s. Epoch",
            Some(Inset {
                from: 55.0,
                to: 60.0,
            }),
        ),
        ("Test Accuracy v.s. Epoch", None),
        ("Train Accuracy v.s. Epoch", None),
        ("Generalization Error v.s. Epoch", None),
    ]
    .map(|(title, inset)| curves_of(title, inset));
    save(folder, "training", &grid(&training, 2)?)?;
    save(folder, "loss", &panel(&training[0])?)?;
    save(folder, "bound", &panel(&bound())?)?;
    save(folder, "constant", &panel(&constant())?)?;
    save(folder, "rank", &scatter(&ranks("Effective rank", 0.0))?)?;
    let audits = ["Query", "Key", "Value", "Dense"]
        .iter()
        .zip([0.0, 1.0, 2.0, 3.0])
        .map(|(title, shift)| ranks(title, shift));
    save(
        folder,
        "ranks",
        &scatter_grid(&audits.collect::<Vec<_>>(), 2)?,
    )?;
    Ok(())
}

fn save(folder: &Path, name: &str, figure: &Figure) -> std::io::Result<()> {
    std::fs::write(folder.join(format!("{name}.svg")), &figure.svg)?;
    std::fs::write(folder.join(format!("{name}.png")), &figure.png)
}

/// Repeatable noise in [-1, 1].
fn noise(seed: u32, index: u32) -> f64 {
    let mut h = seed.wrapping_mul(0x9E37_79B9) ^ index.wrapping_mul(0x85EB_CA6B);
    h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
    h = (h ^ (h >> 15)).wrapping_mul(0x846C_A68B);
    f64::from(h ^ (h >> 16)) / f64::from(u32::MAX) * 2.0 - 1.0
}

fn curves_of(title: &str, inset: Option<Inset>) -> Panel {
    let mut curves = Vec::new();
    let mut add = |label: String, color, stroke, marker, merit: f64| {
        let seed = curves.len() as u32;
        let x: Vec<f64> = (1..=60).map(f64::from).collect();
        let mean: Vec<f64> = (1..=60)
            .map(|epoch| {
                let t = f64::from(epoch);
                let noise = 0.01 * noise(seed, epoch);
                match title {
                    "Test Loss v.s. Epoch" => {
                        0.42 + 2.6 * (-t / (7.0 + merit)).exp() - 0.03 * merit + noise
                    }
                    "Test Accuracy v.s. Epoch" => {
                        0.86 + 0.01 * merit - 0.5 * (-t / 8.0).exp() + noise / 2.0
                    }
                    "Train Accuracy v.s. Epoch" => {
                        0.99 - 0.01 * merit - 0.6 * (-t / 9.0).exp() + noise / 3.0
                    }
                    _ => 0.13 - 0.02 * merit - 0.1 * (-t / 20.0).exp() + noise / 2.0,
                }
            })
            .collect();
        let spread = |k: usize| 0.008 + 0.006 * noise(seed + 100, k as u32).abs();
        curves.push(Curve {
            label,
            color,
            stroke,
            marker,
            low: mean
                .iter()
                .enumerate()
                .map(|(k, m)| m - spread(k))
                .collect(),
            high: mean
                .iter()
                .enumerate()
                .map(|(k, m)| m + spread(k))
                .collect(),
            x,
            mean,
        });
    };
    for (order, (method, color, marker)) in METHODS.into_iter().enumerate() {
        for (step, (rank, stroke)) in RANKS.into_iter().enumerate() {
            let merit = order as f64 + 0.3 * step as f64;
            let label = format!("{method} (R = {rank})");
            add(label, color, stroke, Some(marker), merit);
        }
    }
    let full = "Full fine-tuning".to_owned();
    add(full, PALETTE[4], Stroke::Dotted, Some(Marker::Cross), -0.5);
    Panel {
        title: title.to_owned(),
        x_label: "Epoch".to_owned(),
        y_label: title.split(" v.s.").next().unwrap_or_default().to_owned(),
        curves,
        inset,
        ..Panel::default()
    }
}

/// A bound and what was measured below it; exact from rank 24 on.
fn bound() -> Panel {
    let ranks: Vec<f64> = (0..=32).map(f64::from).collect();
    let curve = |label: &str, color, stroke, marker, mean: Vec<f64>| Curve {
        label: label.to_owned(),
        color,
        stroke,
        marker,
        x: ranks.clone(),
        mean,
        low: Vec::new(),
        high: Vec::new(),
    };
    let falling = |scale: f64| -> Vec<f64> {
        ranks
            .iter()
            .map(|r| match *r as u32 {
                0..24 => scale * (-0.25 * r).exp(),
                24..28 => 1e-15 * (1.0 + r % 3.0),
                _ => 0.0,
            })
            .collect()
    };
    Panel {
        title: "Approximation error of the adapted network".to_owned(),
        x_label: "Rank R".to_owned(),
        y_label: "‖f − f̄‖ (squared, mean)".to_owned(),
        y_scale: Scale::log(),
        curves: vec![
            curve(
                "Upper bound",
                PALETTE[4],
                Stroke::Dashed,
                None,
                falling(900.0),
            ),
            curve(
                "Constructed adapter",
                PALETTE[0],
                Stroke::Solid,
                Some(Marker::Circle),
                falling(60.0),
            ),
            curve(
                "Gradient descent",
                PALETTE[1],
                Stroke::Solid,
                Some(Marker::Square),
                ranks
                    .iter()
                    .map(|r| 60.0 * (-0.2 * r).exp() + 1e-4)
                    .collect(),
            ),
        ],
        ..Panel::default()
    }
}

/// A constant, a gap and a single point.
fn constant() -> Panel {
    let curve = |label: &str, color, mean: &[f64]| Curve {
        label: label.to_owned(),
        color,
        stroke: Stroke::Solid,
        marker: None,
        x: (0..mean.len()).map(|k| k as f64).collect(),
        mean: mean.to_vec(),
        low: Vec::new(),
        high: Vec::new(),
    };
    Panel {
        title: "Constant, gap and single point".to_owned(),
        curves: vec![
            curve("constant", PALETTE[0], &[0.3; 6]),
            curve(
                "gap",
                PALETTE[1],
                &[0.3001, 0.3002, f64::NAN, 0.3004, f64::NAN, 0.3003],
            ),
        ],
        ..Panel::default()
    }
}

fn ranks(title: &str, shift: f64) -> Scatter {
    let groups = METHODS
        .into_iter()
        .enumerate()
        .map(|(order, (label, color, marker))| Group {
            label: label.to_owned(),
            color,
            marker,
            points: (0..10 - u32::from(order == 3))
                .map(|k| {
                    let seed = order as u32 + 10 * shift as u32;
                    let x = 4.0 + 6.0 * f64::from(k) / 9.0 * (1.0 + order as f64 / 2.0);
                    let y = 0.7 + 0.02 * order as f64 + 0.004 * x + 0.02 * noise(seed, k);
                    (x + noise(seed + 50, k), y)
                })
                .collect(),
        });
    Scatter {
        title: title.to_owned(),
        x_label: "Effective rank of ΔW".to_owned(),
        y_label: "Test accuracy".to_owned(),
        groups: groups.collect(),
        note: Some("Spearman ρ = 0.83, 39 adapters".to_owned()),
        ..Scatter::default()
    }
}
