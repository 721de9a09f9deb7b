use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Where tensors live: `cpu` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceName {
    /// The processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU of that number.
    Cuda(usize),
}

impl DeviceName {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::Device`] if this build has no CUDA, or the machine no such GPU.
    pub fn open(self) -> Result<Device, Error> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) if !cfg!(feature = "cuda") => Err(Error::Device {
                device: self.to_string(),
                reason: "this program was built without the cuda feature".to_owned(),
            }),
            // Not `cuda_if_available`, which hides the reason.
            Self::Cuda(index) => Device::new_cuda(index).map_err(|error| Error::Device {
                device: self.to_string(),
                // Without the backtrace that the tensor library appends on request.
                reason: format!(
                    "no NVIDIA GPU and driver could be opened: {}",
                    error.to_string().lines().next().unwrap_or_default()
                ),
            }),
        }
    }

    /// What a run's record says of the machine: system, processor, device.
    pub(crate) fn platform(self) -> String {
        let (system, processor) = (std::env::consts::OS, std::env::consts::ARCH);
        format!("{system}-{processor}-{self}")
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected cpu or cuda:N, found {text:?}");
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            Some(("cuda", index)) => index.parse().map(Self::Cuda).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for DeviceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceName> for String {
    fn from(device: DeviceName) -> Self {
        device.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_alike() {
        for name in ["cpu", "cuda:0", "cuda:3"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        assert!(
            "gpu"
                .parse::<DeviceName>()
                .unwrap_err()
                .contains("expected cpu or cuda:N")
        );
        assert!("cuda:x".parse::<DeviceName>().is_err());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_so() {
        let error = DeviceName::Cuda(0).open().unwrap_err().to_string();
        assert!(error.contains("built without the cuda feature"), "{error}");
    }
}
