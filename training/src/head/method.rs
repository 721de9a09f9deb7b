//! The methods of the paper's Figure 1, as one checked description.
//!
//! A linear layer `y = W₀ x + b` is updated by ΔW. Full fine-tuning trains W itself; the others
//! train `ΔW = s·B·A` (Hu et al. 2021) with A (R × in), B (out × R), s = α/R, and minimise
//!
//! ```text
//! task + λ (‖A Aᵀ − I‖²_F + ‖Bᵀ B − I‖²_F)                                  (Eq. 10)
//! ```
//!
//! while each step moves r̂ of the R directions (row i of A with column i of B; Algorithm 1).
//!
//! | method | λ | r̂ |
//! |---|---|---|
//! | LoRA | 0 | R |
//! | R-LoRA | > 0 | R |
//! | GM-LoRA | 0 | < R |
//! | RM-LoRA | > 0 | < R |

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;
pub use crate::method::mask::Period as MaskPeriod;
use crate::method::mask::default_directions;
use crate::method::orthogonality::DEFAULT_LAMBDA;
pub use crate::method::product::FirstValues as Initialisation;

/// A method by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MethodName {
    /// Full fine-tuning.
    Full,
    /// Low-rank adaptation (Hu et al. 2021).
    Lora,
    /// LoRA with the orthogonality regulariser of Eq. 10.
    RLora,
    /// LoRA with the gradient mask of Algorithm 1.
    GmLora,
    /// LoRA with both.
    RmLora,
}

impl MethodName {
    /// Every method, in the order of tables and legends.
    pub const ALL: [Self; 5] = [
        Self::Full,
        Self::Lora,
        Self::RLora,
        Self::GmLora,
        Self::RmLora,
    ];

    /// The name in configurations and on the command line, such as `rm-lora`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Lora => "lora",
            Self::RLora => "r-lora",
            Self::GmLora => "gm-lora",
            Self::RmLora => "rm-lora",
        }
    }

    /// Whether ΔW is a product of two factors.
    pub fn is_low_rank(self) -> bool {
        self != Self::Full
    }

    /// Whether the loss has the term of Eq. 10.
    pub fn is_regularised(self) -> bool {
        matches!(self, Self::RLora | Self::RmLora)
    }

    /// Whether a step moves only some directions.
    pub fn is_masked(self) -> bool {
        matches!(self, Self::GmLora | Self::RmLora)
    }
}

impl fmt::Display for MethodName {
    /// The name in tables and legends, as the paper writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Full => "Full fine-tuning",
            Self::Lora => "LoRA",
            Self::RLora => "R-LoRA",
            Self::GmLora => "GM-LoRA",
            Self::RmLora => "RM-LoRA",
        })
    }
}

impl FromStr for MethodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let keys = || Self::ALL.map(Self::key);
        Self::ALL
            .into_iter()
            .find(|method| method.key() == text)
            .ok_or_else(|| {
                if crate::method::Method::KEYS.contains(&text) {
                    return format!(
                        "method {text:?} is one of fine-tuning a transformer, which needs --model DIR, \
                         or path under [model]; without a model: {}",
                        keys().join(", ")
                    );
                }
                let nearest = crate::settings::nearest(text, keys());
                format!(
                    "unknown method {text:?}{nearest}; known: {}",
                    keys().join(", ")
                )
            })
    }
}

impl TryFrom<String> for MethodName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MethodName> for String {
    fn from(method: MethodName) -> Self {
        method.key().to_owned()
    }
}

rankwise_data::documented! {
/// The `[method]` part of a configuration. What is `None` follows from the method and R.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MethodConfig {
    /// Which method.
    pub name: MethodName,
    /// R, the size of the factors; not for full fine-tuning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// α; the update's scale is α/R. Default: R, so that the scale is 1 as in the paper's Eq. 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// How A begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initialisation: Option<Initialisation>,
    /// λ of Eq. 10; R-LoRA and RM-LoRA only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// r̂, how many directions a step moves; GM-LoRA and RM-LoRA only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directions: Option<usize>,
    /// When a new mask is drawn; GM-LoRA and RM-LoRA only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<MaskPeriod>,
}
}

impl Default for MethodConfig {
    fn default() -> Self {
        Self {
            name: MethodName::Lora,
            rank: None,
            alpha: None,
            initialisation: None,
            lambda: None,
            directions: None,
            mask: None,
        }
    }
}

impl MethodConfig {
    /// The same with every setting written out that the method has.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting that the method does not have or that is out of range, for
    /// a layer of `inputs` × `outputs`.
    pub(crate) fn resolved(
        &self,
        origin: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self, Error> {
        let setting = |key: &str, expected: String, found: String| Error::Setting {
            origin: origin.to_owned(),
            key: format!("method.{key}"),
            expected,
            found,
        };
        let name = self.name;
        for (key, given, known) in [
            ("rank", self.rank.is_some(), name.is_low_rank()),
            ("alpha", self.alpha.is_some(), name.is_low_rank()),
            (
                "initialisation",
                self.initialisation.is_some(),
                name.is_low_rank(),
            ),
            ("lambda", self.lambda.is_some(), name.is_regularised()),
            ("directions", self.directions.is_some(), name.is_masked()),
            ("mask", self.mask.is_some(), name.is_masked()),
        ] {
            if given && !known {
                let expected = format!("no such setting for method {}", name.key());
                return Err(setting(key, expected, "a value".to_owned()));
            }
        }
        if !name.is_low_rank() {
            return Ok(self.clone());
        }
        let largest = inputs.min(outputs);
        let rank = self.rank.unwrap_or(32);
        if rank == 0 || rank > largest {
            let layer = format!("the layer is {outputs} × {inputs}");
            let expected = format!("between 1 and {largest} ({layer})");
            return Err(setting("rank", expected, rank.to_string()));
        }
        let alpha = self.alpha.unwrap_or(rank as f64);
        if !(alpha.is_finite() && alpha > 0.0) {
            return Err(setting("alpha", "above 0".to_owned(), alpha.to_string()));
        }
        let lambda = self.lambda.unwrap_or(DEFAULT_LAMBDA);
        if !(lambda.is_finite() && lambda >= 0.0) {
            return Err(setting(
                "lambda",
                "0 or more".to_owned(),
                lambda.to_string(),
            ));
        }
        let directions = self.directions.unwrap_or(default_directions(rank));
        if directions == 0 || directions > rank {
            let expected = format!("between 1 and the rank {rank}");
            return Err(setting("directions", expected, directions.to_string()));
        }
        Ok(Self {
            name,
            rank: Some(rank),
            alpha: Some(alpha),
            initialisation: Some(self.initialisation.unwrap_or_default()),
            lambda: name.is_regularised().then_some(lambda),
            directions: name.is_masked().then_some(directions),
            mask: name.is_masked().then(|| self.mask.unwrap_or_default()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(config: MethodConfig) -> Result<MethodConfig, String> {
        config
            .resolved("test", 384, 77)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_follow_from_the_method() {
        let rm = MethodConfig {
            name: MethodName::RmLora,
            ..Default::default()
        };
        let rm = resolve(rm).unwrap();
        assert_eq!((rm.rank, rm.alpha), (Some(32), Some(32.0)));
        assert_eq!(rm.lambda, Some(DEFAULT_LAMBDA));
        assert_eq!(rm.mask, Some(MaskPeriod::Step));
        let full = MethodConfig {
            name: MethodName::Full,
            ..Default::default()
        };
        assert_eq!(resolve(full.clone()).unwrap(), full);
    }

    #[test]
    fn settings_that_do_not_fit_are_named() {
        let rank = MethodConfig {
            rank: Some(78),
            ..Default::default()
        };
        let error = resolve(rank).unwrap_err();
        assert!(
            error.contains("method.rank: expected between 1 and 77"),
            "{error}"
        );
        let lambda = MethodConfig {
            lambda: Some(1.0),
            ..Default::default()
        };
        assert!(
            resolve(lambda)
                .unwrap_err()
                .contains("no such setting for method lora")
        );
        let directions = MethodConfig {
            name: MethodName::GmLora,
            rank: Some(8),
            directions: Some(9),
            ..Default::default()
        };
        assert!(
            resolve(directions)
                .unwrap_err()
                .contains("between 1 and the rank 8")
        );
        let nan = MethodConfig {
            alpha: Some(f64::NAN),
            ..Default::default()
        };
        assert!(resolve(nan).unwrap_err().contains("method.alpha"));
    }

    #[test]
    fn an_unknown_method_is_answered_with_the_nearest() {
        let error = "rm-lara".parse::<MethodName>().unwrap_err();
        assert!(error.contains("did you mean \"rm-lora\"?"), "{error}");
    }
}
