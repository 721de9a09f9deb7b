//! What a run needs of a device's memory, and what to say where that is too much.

use super::data::Source;
use super::run::Run;
use crate::Error;
use crate::module::{Declared, Kind};

/// An estimate in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    /// Weights, and of what trains values, gradient and moments: all through the run.
    pub state: usize,
    /// Of a batch of the longest examples: inputs and outputs of every module, which are kept for the
    /// way back. A model keeps a little less, its attention a little more.
    pub batch: usize,
    /// Tokens, or patches, of such an example.
    pub tokens: usize,
}

impl Run<'_> {
    pub fn need(&self) -> Need {
        let tuned = &self.trainer.tuned;
        let modules = || tuned.modules.0.iter().map(|module| &module.declared);
        let width = self.dtype.size_in_bytes();
        // Values, gradient and two moments, in float32 (float64 under f64).
        let own = 4 * tuned.parameters.values().dtype().size_in_bytes();
        let weights: usize = modules().map(Declared::count).sum();
        let tokens = match &self.data.train {
            Source::Images { .. } => modules().map(positions).max().unwrap_or(1),
            texts => texts.longest().max(1),
        };
        // An embedding's inputs are numbers of rows.
        let kept = |one: &Declared| match one.kind {
            Kind::Embedding => one.outputs(),
            _ => one.inputs() + one.outputs(),
        };
        let numbers: usize = modules().map(kept).sum();
        Need {
            state: weights * width + self.trainable().total * own,
            batch: self.config.schedule.batch_size * tokens * numbers * width,
            tokens,
        }
    }

    /// The error itself, or where the device had too little memory what the run needs of it.
    pub fn explained(&self, error: Error) -> Error {
        match is_out_of_memory(&error) {
            false => error,
            true => self.need().error(
                &self.config.device.to_string(),
                self.config.schedule.batch_size,
            ),
        }
    }
}

impl Need {
    fn error(self, device: &str, examples: usize) -> Error {
        let megabytes = |bytes: usize| bytes.div_ceil(1_000_000);
        let (state, batch, tokens) = (megabytes(self.state), megabytes(self.batch), self.tokens);
        Error::Device {
            device: device.to_owned(),
            reason: format!(
                "out of memory: the run keeps about {state} MB of weights and trained numbers, and \
                 about {batch} MB more for a batch of {examples} examples of {tokens} tokens or \
                 patches; lower schedule.batch_size (schedule.accumulation makes up for it) or \
                 task.max_length, or set precision = \"bf16\""
            ),
        }
    }
}

/// Positions of a table of them: 1 × positions × width, or positions × width.
fn positions(declared: &Declared) -> usize {
    match (declared.kind, declared.shape.as_slice()) {
        (Kind::Table, [.., positions, _]) => *positions,
        _ => 1,
    }
}

/// The error itself, or where the device had too little memory for a model what to do.
pub(super) fn explained_while_loading(error: Error, device: &str) -> Error {
    match is_out_of_memory(&error) {
        false => error,
        true => Error::Device {
            device: device.to_owned(),
            reason:
                "out of memory while the model's weights were loaded; set precision = \"bf16\", or \
                     choose a smaller model"
                    .to_owned(),
        },
    }
}

/// Whether the driver refused memory.
fn is_out_of_memory(error: &Error) -> bool {
    // The tensor library hands the driver's words on, with or without an underscore between them.
    let words = |error: &candle_core::Error| {
        let text = error.to_string().to_lowercase().replace('_', " ");
        text.contains("out of memory")
    };
    matches!(error, Error::Tensor(inner) if words(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_told_from_other_faults() {
        for (words, is) in [
            (
                "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
                true,
            ),
            ("CUBLAS_STATUS_ALLOC_FAILED out_of_memory", true),
            (
                "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"illegal address\")",
                false,
            ),
        ] {
            let error = Error::Tensor(candle_core::Error::msg(words));
            assert_eq!(is_out_of_memory(&error), is, "{words}");
        }
    }

    #[test]
    fn the_message_says_how_much_and_what_to_lower() {
        let need = Need {
            state: 90_600_001,
            batch: 2_000_000,
            tokens: 128,
        };
        let message = need.error("cuda:0", 32).to_string();
        for part in [
            "device cuda:0: out of memory",
            "91 MB of weights",
            "2 MB more for a batch of 32 examples of 128 tokens",
            "schedule.batch_size",
            "bf16",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}
