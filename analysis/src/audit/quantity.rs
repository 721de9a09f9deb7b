//! The numbers of a module by their names in the machine-readable form, each with its formula and
//! where that comes from: one list for rules, tables and glossaries.

use super::record::ModuleAudit;
use crate::{Measures, Orthogonality};

/// A number of a module.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    /// Its name in the machine-readable form.
    pub name: &'static str,
    /// What it is, in terms of the singular values σ of ΔW and λ = σ².
    pub formula: &'static str,
    /// Who defined it; empty where it needs no source.
    pub source: &'static str,
    value: fn(&ModuleAudit) -> Option<f64>,
}

impl Quantity {
    /// Its value; `None` where it is not defined: a ratio of a zero update, every measure of an
    /// update that is not finite, the scale where α is not known.
    pub fn of(&self, module: &ModuleAudit) -> Option<f64> {
        (self.value)(module)
    }

    /// The quantity of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        QUANTITIES.iter().find(|quantity| quantity.name == name)
    }
}

/// Names are unique.
impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Quantity {}

const fn quantity(
    name: &'static str,
    formula: &'static str,
    source: &'static str,
    value: fn(&ModuleAudit) -> Option<f64>,
) -> Quantity {
    Quantity {
        name,
        formula,
        source,
        value,
    }
}

fn measured(module: &ModuleAudit) -> Option<&Measures> {
    module.spectrum.as_ref().map(|spectrum| &spectrum.measures)
}

fn isometry(module: &ModuleAudit) -> Option<&Orthogonality> {
    module
        .spectrum
        .as_ref()
        .map(|spectrum| &spectrum.orthogonality)
}

/// Every number of a module, in the order of the machine-readable form.
pub static QUANTITIES: [Quantity; 21] = [
    quantity("layer", "the block that the module is in", "", |m| {
        m.layer.map(|layer| layer as f64)
    }),
    quantity(
        "rows",
        "rows of ΔW as the base weight is stored",
        "",
        |m| Some(m.shape.0 as f64),
    ),
    quantity(
        "columns",
        "columns of ΔW as the base weight is stored",
        "",
        |m| Some(m.shape.1 as f64),
    ),
    quantity(
        "rank_budget",
        "R, the rank that the factors allow",
        "",
        |m| Some(m.rank_budget as f64),
    ),
    quantity(
        "scale",
        "what the product of the factors is multiplied with: α/R or α/√R for LoRA",
        "Hu et al. 2021; Kalajdzievski 2023",
        |m| m.scaled.then_some(m.scale),
    ),
    quantity(
        "tau",
        "τ, the threshold of the numerical rank; tau_rule says how it was chosen",
        "",
        |m| Some(measured(m)?.tau),
    ),
    quantity(
        "numerical_rank",
        "#{σ > τ}",
        "Golub & Van Loan; NumPy, MATLAB",
        |m| Some(measured(m)?.numerical_rank as f64),
    ),
    quantity(
        "energy_rank_90",
        "least k with Σ_{i≤k} λ ≥ 0.90 Σλ",
        "",
        |m| Some(measured(m)?.energy_rank_90 as f64),
    ),
    quantity(
        "energy_rank_95",
        "least k with Σ_{i≤k} λ ≥ 0.95 Σλ",
        "",
        |m| Some(measured(m)?.energy_rank_95 as f64),
    ),
    quantity(
        "energy_rank_99",
        "least k with Σ_{i≤k} λ ≥ 0.99 Σλ",
        "",
        |m| Some(measured(m)?.energy_rank_99 as f64),
    ),
    quantity(
        "stable_rank",
        "Σλ/λ₁",
        "Rudelson & Vershynin 2007",
        |m| measured(m)?.stable_rank,
    ),
    quantity(
        "effective_rank",
        "exp H(p), p = σ/Σσ",
        "Roy & Vetterli 2007",
        |m| measured(m)?.effective_rank,
    ),
    quantity(
        "effective_rank_energy",
        "exp H(q), q = λ/Σλ: not the effective rank of Roy & Vetterli",
        "",
        |m| measured(m)?.effective_rank_energy,
    ),
    quantity("participation_ratio", "(Σλ)²/Σλ²", "", |m| {
        measured(m)?.participation_ratio
    }),
    quantity("nuclear_ratio", "(Σσ)²/Σλ", "", |m| {
        measured(m)?.nuclear_ratio
    }),
    quantity("frobenius_norm", "‖ΔW‖_F = √Σλ", "", |m| {
        Some(measured(m)?.frobenius_norm)
    }),
    quantity("spectral_norm", "σ₁", "", |m| {
        Some(measured(m)?.spectral_norm)
    }),
    quantity(
        "orthogonality_loss",
        "‖ΔWΔWᵀ − I‖_F² = Σ_{i≤r}(λ_i − 1)² + (d − r), d the side's length",
        "the RM-LoRA paper, Table 5",
        |m| Some(isometry(m)?.loss),
    ),
    quantity(
        "orthogonality_floor",
        "d − r: no update of rank r has a smaller loss",
        "",
        |m| Some(isometry(m)?.floor),
    ),
    quantity("orthogonality_excess", "the loss less its floor", "", |m| {
        Some(isometry(m)?.excess)
    }),
    quantity(
        "budget_share",
        "energy_rank_99/R: the share of the budget that holds 99 % of the energy",
        "",
        |m| {
            let share = measured(m)?.energy_rank_99 as f64 / m.rank_budget as f64;
            share.is_finite().then_some(share)
        },
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Kind, Method};
    use crate::{AuditOptions, Spectrum, TauRule, measures, orthogonality};

    /// The serialised record is written by other code: the same names must give the same numbers.
    #[test]
    fn quantities_are_the_records_own_fields() {
        let sigma = vec![3.0, 1.0];
        let module = ModuleAudit {
            name: "h.7.q".to_owned(),
            kind: Kind::Linear,
            method: Method::Lora,
            parameters: 56,
            layer: Some(7),
            shape: (5, 9),
            rank_budget: 4,
            scale: 2.0,
            scaled: true,
            spectrum: Some(Spectrum {
                measures: measures(&sigma, (5, 9), TauRule::Absolute(2.0)),
                orthogonality: orthogonality(&sigma, (5, 9), 4, AuditOptions::default().side),
                singular_values: sigma,
            }),
        };
        let record = serde_json::to_value(&module).unwrap();
        let expected = |name: &str| match name {
            "rows" => Some(5.0),
            "columns" => Some(9.0),
            "budget_share" => Some(0.5),
            _ => record[name].as_f64(),
        };
        for quantity in &QUANTITIES {
            let value = quantity.of(&module);
            assert!(value.is_some(), "{}", quantity.name);
            assert_eq!(value, expected(quantity.name), "{}", quantity.name);
            assert_eq!(Quantity::named(quantity.name), Some(quantity));
        }
        let unknown = ModuleAudit {
            scaled: false,
            spectrum: None,
            ..module
        };
        for name in ["scale", "tau", "numerical_rank", "budget_share"] {
            assert_eq!(Quantity::named(name).unwrap().of(&unknown), None, "{name}");
        }
    }
}
