//! Matrices in the bytes of a file, for which no array is made.

use ndarray::Array2;
use safetensors::Dtype;

use crate::Error;
use crate::linalg::TallQr;

/// How numbers are stored; all little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// 64-bit.
    F64,
    /// 32-bit.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a 32-bit number.
    Bf16,
}

impl Storage {
    /// Of a tensor's type, if it is one of these.
    pub(crate) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F64 => Some(Self::F64),
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A row-major matrix in stored bytes.
#[derive(Debug, Clone, Copy)]
pub struct StoredMatrix<'a> {
    bytes: &'a [u8],
    storage: Storage,
    rows: usize,
    columns: usize,
}

impl<'a> StoredMatrix<'a> {
    /// A matrix of `rows` × `columns` numbers.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the bytes are not as many as these numbers have.
    pub fn new(
        bytes: &'a [u8],
        storage: Storage,
        (rows, columns): (usize, usize),
    ) -> Result<Self, Error> {
        let size = rows.checked_mul(columns);
        let size = size.and_then(|count| count.checked_mul(storage.size()));
        if size != Some(bytes.len()) {
            return Err(Error::Mismatch {
                what: "bytes of a stored matrix",
                expected: format!("{rows} x {columns} numbers in {storage:?}"),
                found: format!("{} bytes", bytes.len()),
            });
        }
        Ok(Self {
            bytes,
            storage,
            rows,
            columns,
        })
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// The numbers in float64.
    pub fn to_array(&self) -> Array2<f64> {
        let values = match self.storage {
            Storage::F64 => self.decoded(f64::from_le_bytes),
            Storage::F32 => self.decoded(single),
            Storage::F16 => self.decoded(half_precision),
            Storage::Bf16 => self.decoded(brain),
        };
        Array2::from_shape_vec((self.rows, self.columns), values)
            .expect("the number of bytes was checked")
    }

    /// R of the thin QR decomposition of the matrix, or of its transpose; not finite if an entry is
    /// not.
    pub(crate) fn triangle(&self, is_transposed: bool) -> Array2<f64> {
        match self.storage {
            Storage::F64 => self.triangle_of(is_transposed, f64::from_le_bytes),
            Storage::F32 => self.triangle_of(is_transposed, single),
            Storage::F16 => self.triangle_of(is_transposed, half_precision),
            Storage::Bf16 => self.triangle_of(is_transposed, brain),
        }
    }

    fn triangle_of<const N: usize>(
        &self,
        is_transposed: bool,
        value: impl Fn([u8; N]) -> f64,
    ) -> Array2<f64> {
        let (entries, _) = self.bytes.as_chunks::<N>();
        let mut tall = if is_transposed {
            TallQr::new(self.rows, self.columns)
        } else {
            TallQr::new(self.columns, self.rows)
        };
        if is_transposed {
            tall.push_columns(entries, value);
        } else {
            tall.push_rows(entries, value);
        }
        tall.finish()
    }

    fn decoded<const N: usize>(&self, value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        let (entries, _) = self.bytes.as_chunks::<N>();
        entries.iter().map(|&entry| value(entry)).collect()
    }
}

#[inline(always)]
fn single(bytes: [u8; 4]) -> f64 {
    f32::from_le_bytes(bytes).into()
}

#[inline(always)]
fn brain(bytes: [u8; 2]) -> f64 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16).into()
}

/// Without a branch, so that whole vectors are converted: the bits in float32's places are the number
/// times 2^−112, subnormal ones included.
#[inline(always)]
fn half_precision(bytes: [u8; 2]) -> f64 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let (sign, magnitude) = ((bits & 0x8000) << 16, (bits & 0x7fff) << 13);
    let scaled = f64::from(f32::from_bits(magnitude)) * 2_f64.powi(112);
    let special = f64::from(f32::from_bits(magnitude | 0x7f80_0000));
    let value = if bits & 0x7c00 == 0x7c00 {
        special
    } else {
        scaled
    };
    f64::from_bits(value.to_bits() | (u64::from(sign) << 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_the_half_crates() {
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            for (found, known) in [
                (half_precision(bytes), half::f16::from_bits(bits).to_f64()),
                (brain(bytes), half::bf16::from_bits(bits).to_f64()),
            ] {
                assert!(
                    found.to_bits() == known.to_bits() || found.is_nan() && known.is_nan(),
                    "{bits:#x}: {found}, expected {known}"
                );
            }
        }
    }

    #[test]
    fn bytes_that_do_not_fit_are_refused() {
        let error = StoredMatrix::new(&[0; 7], Storage::F16, (2, 2)).unwrap_err();
        let text = "bytes of a stored matrix: expected 2 x 2 numbers in F16, found 7 bytes";
        assert_eq!(error.to_string(), text);
        assert!(StoredMatrix::new(&[], Storage::F64, (usize::MAX, 3)).is_err());
    }
}
