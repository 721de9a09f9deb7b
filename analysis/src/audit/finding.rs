//! What deserves attention, and the rules by which it does.

use serde::{Deserialize, Serialize};

use super::record::as_map;

/// Something that deserves attention.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// The module that it concerns; `None` if all of the adapter.
    pub module: Option<String>,
    /// The finding in words.
    pub message: String,
    /// The numbers that it rests on.
    #[serde(serialize_with = "as_map")]
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
}

/// A list whose documentation is its meaning in the program too.
macro_rules! explained {
    (
        $(#[$attribute:meta])*
        pub enum $list:ident { $($(#[doc = $line:literal])+ $kind:ident,)+ }
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
        }
    };
}

explained! {
    /// The kinds of findings.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum FindingKind {
        /// ΔW = 0: the module does nothing.
        ZeroUpdate,
        /// σ₁ below 2⁻¹⁵, half the spacing of bfloat16's numbers at 0.01: merged into weights of ordinary
        /// size in bfloat16, the update is rounded away.
        TinyUpdate,
        /// A factor holds NaN or Inf.
        NonFinite,
        /// Directions i with ‖b_i‖·‖a_i‖ = 0, or so small that they count for nothing beside σ₁.
        DeadDirection,
        /// Fewer independent directions than live ones: some are combinations of others.
        CollapsedDirection,
        /// Fewer than half of the R directions hold 99 % of Σσ².
        UnusedBudget,
        /// Of numerical rank, 99 % energy rank and effective rank, the largest is more than twice the
        /// smallest: what “the rank” is depends on the definition.
        DefinitionsDisagree,
        /// α is not known, so neither is the scale.
        AlphaMissing,
        /// The scale is not positive, or beyond what α and R of real trainings give.
        UnusualScale,
        /// The factors have another rank than the configuration says.
        RankPatternMismatch,
        /// The initialisation changed the base weight; B A is not the whole update.
        ChangedBase,
        /// DoRA without the base weight: only s·B·A could be measured.
        Directional,
        /// VeRA without the base weight: the number of inputs was assumed.
        InputsAssumed,
        /// A bias was trained beside the factors.
        TrainedBias,
        /// Copies of the base model's own tensors lie in the file; they were not trained and are left out.
        FrozenCopies,
        /// The update does not act on every token, so that no single weight does what the adapter does.
        NotEverywhere,
        /// Another file of weights lies beside the adapter's, of which the libraries load only one.
        PassedOver,
    }
}
