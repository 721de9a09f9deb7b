//! The numbers of an adapter as its layers keep them, for those who train it further.

use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2};

use super::key::Part;
use super::recipe::{Factor, Recipe, Stored};
use super::{Adapter, Beside, Effect, Module, alias};
use crate::Error;
use crate::audit::{FindingKind, adapter_file};

/// An adapter whose updates are products of two factors, with all that trains beside them.
#[derive(Debug, Clone)]
pub struct TrainedAdapter {
    /// The file.
    pub path: PathBuf,
    /// In the natural order of their names.
    pub modules: Vec<TrainedModule>,
    /// Tensors that were trained as a whole: a task's head, for instance.
    pub whole: Vec<TrainedTensor>,
}

/// One module's update `ΔW = s · diag(o) · B · diag(g) · A` and what else was trained for it.
#[derive(Debug, Clone)]
pub struct TrainedModule {
    /// As the model names it, and under which names it may have it too.
    pub names: Vec<String>,
    /// A, R × inputs. VeRA's has as many columns as the widest module.
    pub a: Array2<f64>,
    /// B, outputs × R. VeRA's has as many rows as the widest module.
    pub b: Array2<f64>,
    /// s, if the file or its configuration tells.
    pub scale: Option<f64>,
    /// g, R numbers: AdaLoRA's E, VeRA's d.
    pub gate: Option<Array1<f64>>,
    /// o, a number an output: VeRA's b.
    pub output_gate: Option<Array1<f64>>,
    /// m, a number an output: DoRA's magnitudes.
    pub magnitude: Option<Array1<f64>>,
}

/// A tensor in place of the base model's.
#[derive(Debug, Clone)]
pub struct TrainedTensor {
    /// As the model names it, and under which names it may have it too.
    pub names: Vec<String>,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Row by row.
    pub values: Vec<f64>,
}

impl TrainedAdapter {
    /// Reads the adapter at `path`, a file or a folder of one.
    ///
    /// ```
    /// # use rankwise_analysis::{PeftAdapter, TrainedAdapter};
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// # PeftAdapter {
    /// #     module: "score".to_owned(), rank: 1, inputs: 2, outputs: 2, alpha: 2.0,
    /// #     a: vec![3.0, 5.0], b: vec![1.0, 0.0], bias: None,
    /// # }.write(folder)?;
    /// // A = (3, 5), s = α/R = 2.
    /// let adapter = TrainedAdapter::read(folder)?;
    /// assert_eq!(adapter.modules[0].a, ndarray::array![[3.0, 5.0]]);
    /// assert_eq!(adapter.modules[0].scale, Some(2.0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::File`] if there is not exactly one adapter, it cannot be read, or a part of it is
    /// none of the above; all such parts are named.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file = adapter_file(path)?;
        let adapter = Adapter::open(&file, &Beside::default())?
            .ok_or_else(|| Error::format(&file, "file", "an adapter", "no tensor of one"))?;
        let (others, unknown) = adapter.remainder();
        let mut refused: Vec<String> = Vec::new();
        let findings = &adapter.contents.findings;
        if findings.iter().any(|f| f.kind == FindingKind::ChangedBase) {
            let why = "an initialisation that changed the base (init_lora_weights)";
            refused.push(why.to_owned());
        }
        if let Some(config) = &adapter.config {
            let repeated = config.layer_replication.is_some();
            let why = "layer_replication: a model of other layers than the base's";
            refused.extend(repeated.then(|| why.to_owned()));
            refused.extend(config.acts_on_some_tokens().map(str::to_owned));
        }
        let reasons = adapter.contents.refused.iter();
        // Tensors that were trained as a whole are no updates, but belong here.
        let is_whole = |name: &str| others.iter().any(|other| other.tensor.contains(name));
        let reasons = reasons.filter(|(name, _)| !is_whole(name));
        refused.extend(reasons.map(|(name, why)| format!("{name}: {why}")));
        refused.extend(unknown.iter().map(|name| format!("{name}: unknown")));
        let mut modules = Vec::new();
        for module in adapter.contents.modules.iter().filter(|m| !m.is_whole()) {
            match adapter.trained(module)? {
                Ok(trained) => modules.push(trained),
                Err(why) => refused.push(format!("{}: {why}", module.name)),
            }
        }
        let mut whole = Vec::new();
        for other in &others {
            if other.effect != Effect::Replaces {
                refused.push(format!("{}: no tensor as a whole", other.tensor));
                continue;
            }
            whole.push(TrainedTensor {
                names: names(&other.path),
                shape: adapter.weights().tensors()[&other.tensor].shape.clone(),
                values: adapter.weights().read(&other.tensor)?,
            });
        }
        if modules.is_empty() {
            refused.push("no update".to_owned());
        }
        if !refused.is_empty() {
            let expected = "products of two factors and whole tensors only";
            return Err(Error::format(
                &file,
                "adapter",
                expected,
                refused.join("; "),
            ));
        }
        Ok(Self {
            path: file,
            modules,
            whole,
        })
    }
}

fn names(name: &str) -> Vec<String> {
    std::iter::once(name.to_owned())
        .chain(alias::others(name))
        .collect()
}

impl Adapter {
    /// The numbers of a module, or why they are none that train further.
    fn trained(&self, module: &Module) -> Result<Result<TrainedModule, String>, Error> {
        let part = |wanted: Part| {
            let tensor = module.parts.iter().find(|(part, _)| *part == wanted);
            tensor.map(|(_, tensor)| self.column(tensor)).transpose()
        };
        let magnitude = part(Part::Magnitude)?;
        let factors = |a: &Stored, b: &Stored| Ok::<_, Error>((self.stored(a)?, self.stored(b)?));
        let (a, b, gate, output_gate) = match &module.recipe {
            Recipe::Product {
                b: Factor::Stored(b),
                a: Factor::Stored(a),
            } => {
                let (a, b) = factors(a, b)?;
                (a, b, None, None)
            }
            Recipe::Product {
                b: Factor::Stored(b),
                a: Factor::ScaledRows { matrix, scales },
            } => {
                let (a, b) = factors(matrix, b)?;
                (a, b, Some(self.column(scales)?), None)
            }
            Recipe::Vera { d, b: o, .. } => {
                let (a, b) = self.projections()?;
                (a, b, Some(self.column(d)?), Some(self.column(o)?))
            }
            _ => return Ok(Err("an update that is no product of two factors".to_owned())),
        };
        Ok(Ok(TrainedModule {
            names: names(&module.name),
            a,
            b,
            scale: module.scale,
            gate,
            output_gate,
            magnitude,
        }))
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Axis;

    use super::*;

    /// Of a product in float64 against another order of the factors.
    const ROUNDING: f64 = 1e-12;

    /// `s · diag(o) · B · diag(g) · A`, by the definition.
    fn product(module: &TrainedModule, (outputs, inputs): (usize, usize)) -> Array2<f64> {
        let rank = module.a.nrows();
        let ones = |count| Array1::ones(count);
        let gate = module.gate.clone().unwrap_or_else(|| ones(rank));
        let output_gate = module.output_gate.clone().unwrap_or_else(|| ones(outputs));
        let scale = module.scale.unwrap();
        Array2::from_shape_fn((outputs, inputs), |(i, j)| {
            let row = module.b.index_axis(Axis(0), i);
            let column = module.a.index_axis(Axis(1), j);
            let sum: f64 = (0..rank).map(|k| row[k] * gate[k] * column[k]).sum();
            scale * output_gate[i] * sum
        })
    }

    #[test]
    fn numbers_make_the_update_in_every_format() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
        let mut compared = 0;
        for entry in std::fs::read_dir(fixtures).unwrap() {
            let path = entry.unwrap().path();
            let Ok(trained) = TrainedAdapter::read(&path) else {
                continue;
            };
            let file = adapter_file(&path).unwrap();
            let adapter = Adapter::open(&file, &Beside::default()).unwrap().unwrap();
            let modules = adapter.contents.modules.iter().filter(|m| !m.is_whole());
            for (module, trained) in modules.zip(&trained.modules) {
                if trained.scale.is_none() {
                    continue;
                }
                let update = adapter.update(module).unwrap().to_dense();
                let error = &product(trained, update.dim()) - &update;
                let largest =
                    |m: &Array2<f64>| m.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
                let (error, size) = (largest(&error), largest(&update));
                assert!(
                    error <= ROUNDING * size,
                    "{}: {}: {error}",
                    path.display(),
                    module.name
                );
                compared += 1;
            }
        }
        // Plain products alone are that many.
        assert!(compared > 100, "{compared}");
    }

    #[test]
    fn updates_of_other_forms_are_named() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
        for form in ["peft-loha", "peft-lokr-w1-full", "peft-ia3"] {
            let path = fixtures.join(form);
            assert!(path.exists(), "{form}");
            let error = TrainedAdapter::read(&path).unwrap_err().to_string();
            assert!(error.contains("products of two factors"), "{error}");
        }
    }
}
