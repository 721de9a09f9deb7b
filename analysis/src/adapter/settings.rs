//! The settings that diffusers keeps inside the file: the configurations of the pipeline's parts as one
//! JSON text among the file's metadata, every key with the part's name before it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::config::AdapterConfig;

/// The metadata's key.
const KEY: &str = "lora_adapter_metadata";

/// A configuration for every part of the pipeline.
#[derive(Debug, Default)]
pub(super) struct Settings {
    parts: BTreeMap<String, AdapterConfig>,
}

impl Settings {
    /// Reads what is there; what is no JSON object says nothing.
    pub fn read(metadata: &BTreeMap<String, String>) -> Self {
        let whole = metadata
            .get(KEY)
            .and_then(|text| serde_json::from_str::<Value>(text).ok());
        let Some(Value::Object(entries)) = whole else {
            return Self::default();
        };
        let mut grouped: BTreeMap<String, serde_json::Map<String, Value>> = BTreeMap::new();
        for (key, value) in entries {
            if let Some((part, field)) = key.split_once('.') {
                let fields = grouped.entry(part.to_owned()).or_default();
                fields.insert(field.to_owned(), value);
            }
        }
        let parts = grouped.into_iter().filter_map(|(part, fields)| {
            Some((part, serde_json::from_value(Value::Object(fields)).ok()?))
        });
        Self {
            parts: parts.collect(),
        }
    }

    /// α/R or α/√R of a module, named with its part of the pipeline before it, where the settings
    /// have an α.
    pub fn scale(&self, raw: &str, rank: usize) -> Option<f64> {
        let (part, module) = raw.split_once('.')?;
        let config = self.parts.get(part)?;
        let alpha = config.alpha(module).ok().flatten()?;
        let divisor = match config.use_rslora {
            Some(true) => (rank as f64).sqrt(),
            _ => rank as f64,
        };
        (divisor > 0.0).then_some(alpha / divisor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_own_alpha() {
        let text = r#"{"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"to_v": 2},
            "text_encoder.lora_alpha": 3, "text_encoder.use_rslora": true}"#;
        let metadata = BTreeMap::from([(KEY.to_owned(), text.to_owned())]);
        let settings = Settings::read(&metadata);
        assert_eq!(settings.scale("unet.mid.to_q", 4), Some(2.0));
        assert_eq!(settings.scale("unet.mid.to_v", 4), Some(0.5));
        assert_eq!(settings.scale("text_encoder.q_proj", 9), Some(1.0));
        assert_eq!(settings.scale("transformer.q_proj", 9), None);
        assert_eq!(Settings::read(&BTreeMap::new()).scale("unet.q", 1), None);
    }
}
