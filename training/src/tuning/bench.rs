//! The time of training steps on random numbers: what `rankwise bench train` measures.

use std::time::Instant;

use candle_core::{DType, Device};
use rand::Rng;
use rankwise_data::stream;

use super::Tuned;
use super::batch::{Batch, Item, Target};
use super::trainer::Trainer;
use crate::Error;
use crate::engine::optimizer::Rule;
use crate::method::{MethodTable, Step};
use crate::model::{Head, Loaded, ModelConfig};

/// What to measure.
#[derive(Debug, Clone)]
pub struct StepBench {
    /// A model's `config.json` as text.
    pub config: String,
    /// The method.
    pub method: MethodTable,
    /// Sequences a batch.
    pub sequences: usize,
    /// Tokens a sequence.
    pub tokens: usize,
    /// Steps that are measured, after one that is not.
    pub steps: usize,
}

/// What one step took.
#[derive(Debug, Clone, Copy)]
pub struct StepTime {
    /// Wall time.
    pub seconds: f64,
    /// The processor's time of all threads, where the system tells it.
    pub cpu_seconds: Option<f64>,
}

/// Processor seconds of this process so far, in user and system mode; Linux only.
pub fn cpu_seconds() -> Option<f64> {
    // In clock ticks, of which Linux has 100 a second towards user space.
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let after_name = text.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}

impl StepBench {
    /// The times of every step.
    ///
    /// # Errors
    /// [`Error::Model`] or [`Error::Setting`] if model and method do not fit.
    pub fn run(&self) -> Result<Vec<StepTime>, Error> {
        crate::single_threaded_products();
        let (dtype, device) = (DType::F32, Device::Cpu);
        let config = ModelConfig::parse(&self.config, "bench".into())?;
        let loaded = Loaded::random(&config, Head::Classes(2), 0, dtype, &device)?;
        let tuned = Tuned::new(loaded, &self.method, 0, dtype, &device)?;
        let mut rng = stream(0, "bench tokens", 0);
        let vocabulary = config.size("vocab_size")? as u32;
        let items: Vec<_> = (0..self.sequences)
            .map(|index| {
                let ids = (0..self.tokens)
                    .map(|_| rng.random_range(0..vocabulary))
                    .collect();
                Item::text(ids, Vec::new(), Target::Class(index as u32 % 2))
            })
            .collect();
        let rule = Rule::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            decay: 0.0,
        };
        const RATE: f64 = 1e-4;
        let mut trainer = Trainer::new(tuned, rule, RATE, 1.0)?;
        let mut seconds = Vec::new();
        for number in 0..=self.steps as u64 {
            let (start, cpu) = (Instant::now(), cpu_seconds());
            let step = Step {
                number,
                of: self.steps as u64 + 1,
                epoch: 0,
                seed: 0,
            };
            let batch = Batch::new(&items, false, dtype, &device)?;
            if let Err(module) = trainer.step(step, &batch, None, RATE)? {
                return Err(candle_core::Error::msg(format!("{module} is not finite")).into());
            }
            seconds.push(StepTime {
                seconds: start.elapsed().as_secs_f64(),
                cpu_seconds: cpu_seconds().zip(cpu).map(|(after, before)| after - before),
            });
        }
        Ok(seconds.split_off(1))
    }
}
