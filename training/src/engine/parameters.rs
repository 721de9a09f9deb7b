//! All numbers that train, in one flat buffer.
//!
//! A parameter is a stretch of the buffer with a name and a shape; operations read it as a view, the
//! optimiser writes the buffer in place. Saving, resuming, clipping and updating are one pass each.

use candle_core::{DType, Device, Result, Tensor};

/// A parameter's place in its [`Parameters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ParameterId(usize);

impl ParameterId {
    pub fn index(self) -> usize {
        self.0
    }
}

/// How the optimiser treats a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Treatment {
    /// Its learning rate as a multiple of the run's.
    pub rate: f64,
    /// A peak learning rate of its own in place of the run's; it follows the run's schedule.
    pub peak: Option<f64>,
    /// Whether weight decay applies: not to biases, norms and gates.
    pub decays: bool,
    /// Adam's ε, if it is not the run's.
    pub epsilon: Option<f64>,
}

impl Treatment {
    pub const PLAIN: Self = Self {
        rate: 1.0,
        peak: None,
        decays: true,
        epsilon: None,
    };
    pub const WITHOUT_DECAY: Self = Self {
        rate: 1.0,
        peak: None,
        decays: false,
        epsilon: None,
    };
}

/// A parameter: what it is called, and its stretch of the buffer.
#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    /// As in the checkpoint, or `module.lora_a`, `module.lora_b`, ….
    pub name: String,
    pub shape: Vec<usize>,
    pub start: usize,
    pub treatment: Treatment,
}

impl Parameter {
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Rows that can move alone: directions of factors, otherwise rows of the first dimension.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }
}

/// The flat buffer, its parts, and views of them.
#[derive(Debug, Clone)]
pub(crate) struct Parameters {
    parts: Vec<Parameter>,
    values: Tensor,
    views: Vec<Tensor>,
}

#[cfg(test)]
thread_local! {
    /// Numbers that this thread has read back, or would have from another device than the CPU.
    pub(crate) static READ_BACK: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Parameters on their way into a buffer.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    parts: Vec<Parameter>,
    values: Vec<Tensor>,
    count: usize,
}

impl Gathering {
    /// Adds a parameter with its first values.
    pub fn add(&mut self, name: String, values: Tensor, treatment: Treatment) -> ParameterId {
        let part = Parameter {
            name,
            shape: values.dims().to_vec(),
            start: self.count,
            treatment,
        };
        self.count += part.count();
        self.parts.push(part);
        self.values.push(values);
        ParameterId(self.parts.len() - 1)
    }

    /// Changes how the optimiser treats the parameters.
    pub fn treat(&mut self, treatment: impl Fn(&Parameter) -> Treatment) {
        for part in &mut self.parts {
            part.treatment = treatment(part);
        }
    }

    /// Gives a parameter other first values.
    ///
    /// # Errors
    /// If they have another shape.
    pub fn set(&mut self, id: ParameterId, values: Tensor) -> Result<()> {
        let part = &self.parts[id.0];
        if part.shape != values.dims() {
            let (name, expected, found) = (&part.name, &part.shape, values.dims());
            candle_core::bail!("{name}: expected {expected:?}, found {found:?}");
        }
        self.values[id.0] = values;
        Ok(())
    }

    /// The parameters so far.
    pub fn parts(&self) -> &[Parameter] {
        &self.parts
    }

    /// Lays them into one buffer of `dtype` on `device`.
    pub fn finish(self, dtype: DType, device: &Device) -> Result<Parameters> {
        let flat = self
            .values
            .into_iter()
            .map(|values| values.flatten_all()?.to_device(device)?.to_dtype(dtype))
            .collect::<Result<Vec<_>>>()?;
        let values = match flat.as_slice() {
            [] => Tensor::zeros(0, dtype, device)?,
            // A buffer of its own: it will be written in place.
            [one] => one.copy()?,
            several => Tensor::cat(several, 0)?,
        };
        Parameters::new(self.parts, values)
    }
}

impl Parameters {
    fn new(parts: Vec<Parameter>, values: Tensor) -> Result<Self> {
        let views = parts
            .iter()
            .map(|part| {
                values
                    .narrow(0, part.start, part.count())?
                    .reshape(part.shape.as_slice())
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            parts,
            values,
            views,
        })
    }

    /// How many parameters (tensors) there are.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    pub fn parts(&self) -> impl Iterator<Item = (ParameterId, &Parameter)> {
        self.parts
            .iter()
            .enumerate()
            .map(|(index, part)| (ParameterId(index), part))
    }

    pub fn part(&self, id: ParameterId) -> &Parameter {
        &self.parts[id.0]
    }

    /// A parameter's values as a view into the buffer.
    pub fn view(&self, id: ParameterId) -> &Tensor {
        &self.views[id.0]
    }

    /// The whole buffer.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// The same on the host, read back in one piece.
    pub fn on_host(&self) -> Result<Self> {
        #[cfg(test)]
        READ_BACK.with(|count| count.set(count.get() + self.values.elem_count()));
        match self.values.device().is_cpu() {
            true => Ok(self.clone()),
            false => Self::new(self.parts.clone(), self.values.to_device(&Device::Cpu)?),
        }
    }

    /// Puts other numbers into the same places.
    ///
    /// # Errors
    /// If the number of values or their type is another.
    pub fn restore(&mut self, values: Tensor) -> Result<()> {
        let (own, given) = (&self.values, &values);
        if own.dims() != given.dims() || own.dtype() != given.dtype() {
            candle_core::bail!(
                "parameters: expected {:?} of {:?}, found {:?} of {:?}",
                own.dims(),
                own.dtype(),
                given.dims(),
                given.dtype()
            );
        }
        *self = Self::new(std::mem::take(&mut self.parts), values)?;
        Ok(())
    }

    /// Overwrites one parameter in place.
    pub fn set(&self, id: ParameterId, values: &Tensor) -> Result<()> {
        let part = &self.parts[id.0];
        let flat = values.flatten_all()?.to_dtype(self.values.dtype())?;
        self.values.slice_set(&flat.contiguous()?, 0, part.start)
    }
}
