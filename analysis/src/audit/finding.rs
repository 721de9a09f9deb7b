//! What deserves attention, and the rules by which it does.

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use super::record::as_map;

/// Something that deserves attention. Serialised, it has its kind's [severity](FindingKind::severity)
/// too.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// The module that it concerns; `None` if all of the adapter.
    pub module: Option<String>,
    /// The finding in words.
    pub message: String,
    /// The numbers that it rests on.
    pub values: Vec<(&'static str, f64)>,
}

impl Finding {
    pub(crate) fn of_module(kind: FindingKind, module: &str, message: impl Into<String>) -> Self {
        Self {
            kind,
            module: Some(module.to_owned()),
            message: message.into(),
            values: Vec::new(),
        }
    }

    /// How far it goes beside others of its kind: the largest is the worst. Zero where one is as bad
    /// as another.
    pub fn extent(&self) -> f64 {
        let value = |name: &str| {
            let mut values = self.values.iter();
            values
                .find(|(own, _)| *own == name)
                .map_or(f64::NAN, |(_, value)| *value)
        };
        let extent = match self.kind {
            FindingKind::TinyUpdate => -value("spectral_norm"),
            FindingKind::DeadDirection => value("dead") / value("rank_budget"),
            FindingKind::CollapsedDirection => -value("numerical_rank") / value("live"),
            FindingKind::UnusedBudget => -value("energy_rank_99") / value("rank_budget"),
            FindingKind::DefinitionsDisagree => {
                let ranks = ["numerical_rank", "energy_rank_99", "effective_rank"].map(value);
                let [low, high] = [f64::min, f64::max].map(|of| ranks.into_iter().reduce(of));
                high.zip(low).map_or(f64::NAN, |(high, low)| high / low)
            }
            FindingKind::UnusualScale if value("scale") <= 0.0 => f64::INFINITY,
            FindingKind::UnusualScale => value("scale").log2().abs(),
            FindingKind::RankPatternMismatch => (value("expected") - value("found")).abs(),
            FindingKind::ZeroUpdate
            | FindingKind::PrunedModule
            | FindingKind::NonFinite
            | FindingKind::AlphaMissing
            | FindingKind::ChangedBase
            | FindingKind::Directional
            | FindingKind::InputsAssumed
            | FindingKind::TrainedBias
            | FindingKind::FrozenCopies
            | FindingKind::NotEverywhere
            | FindingKind::PassedOver => 0.0,
        };
        if extent.is_nan() { 0.0 } else { extent }
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Values<'a>(&'a [(&'static str, f64)]);
        impl Serialize for Values<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                as_map(self.0, serializer)
            }
        }
        let mut record = serializer.serialize_struct("Finding", 5)?;
        record.serialize_field("kind", &self.kind)?;
        record.serialize_field("severity", &self.kind.severity())?;
        record.serialize_field("module", &self.module)?;
        record.serialize_field("message", &self.message)?;
        record.serialize_field("values", &Values(&self.values))?;
        record.end()
    }
}

/// How much a finding matters, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it is, the adapter cannot do what it was trained for.
    Wrong,
    /// It may be meant, and is often a mistake.
    Suspicious,
    /// Worth knowing; there is nothing to mend.
    Note,
}

impl Severity {
    /// All, the worst first.
    pub const ALL: [Self; 3] = [Self::Wrong, Self::Suspicious, Self::Note];
}

/// A list whose documentation is its meaning in the program too, with the severity of each.
macro_rules! explained {
    (
        $(#[$attribute:meta])*
        pub enum $list:ident { $($(#[doc = $line:literal])+ $kind:ident: $severity:ident,)+ }
    ) => {
        $(#[$attribute])*
        pub enum $list { $($(#[doc = $line])+ $kind,)+ }

        impl $list {
            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$kind => concat!($($line),+).trim_start(),)+
                }
            }

            /// How much it matters.
            pub fn severity(self) -> Severity {
                match self {
                    $(Self::$kind => Severity::$severity,)+
                }
            }
        }
    };
}

explained! {
    /// The kinds of findings.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum FindingKind {
        /// ΔW = 0: the module does nothing.
        ZeroUpdate: Wrong,
        /// No direction is left of the module, as AdaLoRA prunes: R = 0, and so ΔW = 0.
        PrunedModule: Note,
        /// σ₁ below 2⁻¹⁵, half the spacing of bfloat16's numbers at 0.01: merged into weights of ordinary
        /// size in bfloat16, the update is rounded away.
        TinyUpdate: Suspicious,
        /// A factor holds NaN or Inf.
        NonFinite: Wrong,
        /// Directions i with ‖b_i‖·‖a_i‖ = 0, or so small that they count for nothing beside σ₁.
        DeadDirection: Suspicious,
        /// Fewer independent directions than live ones: some are combinations of others.
        CollapsedDirection: Suspicious,
        /// Fewer than half of the R directions hold 99 % of Σσ².
        UnusedBudget: Note,
        /// Of numerical rank, 99 % energy rank and effective rank, the largest is more than twice the
        /// smallest: what “the rank” is depends on the definition.
        DefinitionsDisagree: Note,
        /// α is not known, so neither is the scale.
        AlphaMissing: Suspicious,
        /// The scale is not positive, or beyond what α and R of real trainings give.
        UnusualScale: Suspicious,
        /// The factors have another rank than the configuration says.
        RankPatternMismatch: Suspicious,
        /// The initialisation changed the base weight; B A is not the whole update.
        ChangedBase: Suspicious,
        /// DoRA without the base weight: only s·B·A could be measured.
        Directional: Note,
        /// VeRA without the base weight: the number of inputs was assumed.
        InputsAssumed: Note,
        /// A bias was trained beside the factors.
        TrainedBias: Note,
        /// Copies of the base model's own tensors lie in the file; they were not trained and are left out.
        FrozenCopies: Note,
        /// The update does not act on every token, so that no single weight does what the adapter does.
        NotEverywhere: Suspicious,
        /// Another file of weights lies beside the adapter's, of which the libraries load only one.
        PassedOver: Note,
    }
}
