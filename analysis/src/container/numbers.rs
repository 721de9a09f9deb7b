//! The storage types that can mean a weight, as double-precision numbers.
//!
//! | type | sign, exponent, fraction bits | bias | specials |
//! |---|---|---|---|
//! | F8_E4M3 | 1, 4, 3 | 7 | S.1111.111 is NaN; no infinity |
//! | F8_E5M2 | 1, 5, 2 | 15 | as IEEE 754: the upper byte of a float16 |
//!
//! Every value of every type here is exact in double precision. I8 is read as the integers that it
//! holds: a scale, if there is one, is another tensor.
//!
//! Source: Micikevicius et al., “FP8 Formats for Deep Learning”, 2022, table 1.

use half::{bf16, f16};
use safetensors::Dtype;

/// What [`decode`] reads, as messages name it.
pub(super) const READABLE: &str = "F64, F32, F16, BF16, F8_E4M3, F8_E5M2 or I8";

/// The numbers of little-endian `bytes`; `None` if the type is not one that can mean a weight.
pub(crate) fn decode(bytes: &[u8], dtype: Dtype) -> Option<Vec<f64>> {
    Some(match dtype {
        Dtype::F64 => decoded(bytes, f64::from_le_bytes),
        Dtype::F32 => decoded(bytes, |four| f32::from_le_bytes(four).into()),
        Dtype::F16 => decoded(bytes, |two| f16::from_le_bytes(two).to_f64()),
        Dtype::BF16 => decoded(bytes, |two| bf16::from_le_bytes(two).to_f64()),
        Dtype::F8_E4M3 => decoded(bytes, |[byte]| e4m3(byte)),
        Dtype::F8_E5M2 => decoded(bytes, |[byte]| e5m2(byte)),
        Dtype::I8 => decoded(bytes, |byte| i8::from_le_bytes(byte).into()),
        _ => return None,
    })
}

/// As [`decode`], rounded to float32, without the numbers in double precision where they are none.
pub(crate) fn decode_f32(bytes: &[u8], dtype: Dtype) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => decoded(bytes, f32::from_le_bytes),
        Dtype::F16 => decoded(bytes, |two| f16::from_le_bytes(two).to_f32()),
        Dtype::BF16 => decoded(bytes, |two| bf16::from_le_bytes(two).to_f32()),
        other => decode(bytes, other)?
            .into_iter()
            .map(|x| x as f32)
            .collect(),
    })
}

/// The little-endian bytes of `values`, each rounded once, to the nearest number of the type; `None` if
/// it is not a type that weights are written in.
pub(crate) fn encode(values: impl Iterator<Item = f64>, dtype: Dtype) -> Option<Vec<u8>> {
    Some(match dtype {
        Dtype::F64 => values.flat_map(f64::to_le_bytes).collect(),
        Dtype::F32 => values.flat_map(|x| (x as f32).to_le_bytes()).collect(),
        Dtype::F16 => values
            .flat_map(|x| f16::from_f32(odd(x)).to_le_bytes())
            .collect(),
        Dtype::BF16 => values
            .flat_map(|x| bf16::from_f32(odd(x)).to_le_bytes())
            .collect(),
        _ => return None,
    })
}

/// To float32, to the odd one of the two neighbours if it lies between them. A number that is nowhere
/// near the middle of two numbers of a shorter type stays so, and what is in the middle was there
/// before: rounding again, to the nearest, is then as rounding once.
///
/// Source: S. Boldo and G. Melquiond, “Emulation of FMA and correctly rounded sums: proved algorithms
/// using rounding to odd”, 2008.
fn odd(value: f64) -> f32 {
    let near = value as f32;
    let (bits, back) = (near.to_bits(), f64::from(near));
    if back == value || bits & 1 == 1 || !near.is_finite() {
        return near;
    }
    f32::from_bits(if back.abs() < value.abs() {
        bits + 1
    } else {
        bits - 1
    })
}

fn decoded<T, const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&chunk| value(chunk)).collect()
}

fn e4m3(byte: u8) -> f64 {
    let (exponent, fraction) = (i32::from(byte >> 3 & 15), f64::from(byte & 7));
    let size = match (exponent, byte & 7) {
        (15, 7) => f64::NAN,
        (0, _) => fraction * 2_f64.powi(-9),
        _ => (8.0 + fraction) * 2_f64.powi(exponent - 10),
    };
    if byte & 0x80 == 0 { size } else { -size }
}

fn e5m2(byte: u8) -> f64 {
    f16::from_bits(u16::from(byte) << 8).to_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All 256 codes as PyTorch 2.15 reads them (`fixtures/make_torch_fixtures.py`).
    #[test]
    fn every_code_of_eight_bits_is_pytorchs() {
        let text = include_str!("../../tests/fixtures/torch/float8.json");
        let known: std::collections::BTreeMap<String, Vec<Option<f64>>> =
            serde_json::from_str(text).unwrap();
        for (name, dtype) in [("e4m3fn", Dtype::F8_E4M3), ("e5m2", Dtype::F8_E5M2)] {
            let codes: Vec<u8> = (0..=255).collect();
            let ours = decode(&codes, dtype).unwrap();
            assert_eq!(known[name].len(), 256);
            for ((code, ours), theirs) in codes.iter().zip(ours).zip(&known[name]) {
                // JSON has no NaN and no infinity: both are null there.
                match theirs {
                    Some(theirs) => assert_eq!(ours.to_bits(), theirs.to_bits(), "{name} {code}"),
                    None => assert!(!ours.is_finite(), "{name} {code}: {ours}"),
                }
            }
        }
    }

    /// 1 + 2⁻⁸ is half way between two of bfloat16's numbers: the even one is below. 1 + 2⁻¹¹ + 2⁻²⁰ is
    /// just above half way for float16.
    #[test]
    fn numbers_are_rounded_to_the_nearest_and_come_back() {
        let values = [
            1.0 + 2_f64.powi(-8),
            1.0 + 2_f64.powi(-11) + 2_f64.powi(-20),
            -0.5,
        ];
        for (dtype, known) in [
            (Dtype::F64, values),
            (Dtype::F32, values),
            (Dtype::F16, [values[0], 1.0 + 2_f64.powi(-10), -0.5]),
            (Dtype::BF16, [1.0, 1.0, -0.5]),
        ] {
            let bytes = encode(values.into_iter(), dtype).unwrap();
            assert_eq!(decode(&bytes, dtype).unwrap(), known, "{dtype:?}");
        }
        assert_eq!(encode(values.into_iter(), Dtype::F8_E4M3), None);
    }

    /// By way of float32, rounded to the nearest, these would be in the middle and go to the even one.
    #[test]
    fn numbers_are_rounded_only_once() {
        let nearly = |middle: i32| 1.0 + 2_f64.powi(middle) + 2_f64.powi(-40);
        let half = encode([nearly(-11)].into_iter(), Dtype::F16).unwrap();
        assert_eq!(decode(&half, Dtype::F16).unwrap(), [1.0 + 2_f64.powi(-10)]);
        let brain = encode([nearly(-8)].into_iter(), Dtype::BF16).unwrap();
        assert_eq!(decode(&brain, Dtype::BF16).unwrap(), [1.0 + 2_f64.powi(-7)]);
        // Below the middle: downwards, from an even neighbour above.
        let below = [1.0 + 2_f64.powi(-10) + 2_f64.powi(-11) - 2_f64.powi(-40)];
        let half = encode(below.into_iter(), Dtype::F16).unwrap();
        assert_eq!(decode(&half, Dtype::F16).unwrap(), [1.0 + 2_f64.powi(-10)]);
        let ends = [f64::INFINITY, 0.0, -0.0, f64::NEG_INFINITY];
        let half = decode(&encode(ends.into_iter(), Dtype::F16).unwrap(), Dtype::F16).unwrap();
        assert_eq!(half, ends);
    }

    /// From the paper's table 1: the ends of both ranges, and what is beyond them.
    #[test]
    fn the_ends_of_the_ranges_are_the_published_ones() {
        assert_eq!((e4m3(0x7e), e4m3(0x08)), (448.0, 2_f64.powi(-6)));
        assert_eq!(
            (e4m3(0x01), e4m3(0x07)),
            (2_f64.powi(-9), 0.875 * 2_f64.powi(-6))
        );
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        assert_eq!((e5m2(0x7b), e5m2(0x04)), (57_344.0, 2_f64.powi(-14)));
        assert_eq!((e5m2(0x7c), e5m2(0xfc)), (f64::INFINITY, f64::NEG_INFINITY));
        assert!(
            [0x7d, 0x7e, 0x7f, 0xfd, 0xff]
                .into_iter()
                .all(|byte| e5m2(byte).is_nan())
        );
        assert_eq!(
            decode(&[0x80, 0xff, 0x7f], Dtype::I8).unwrap(),
            [-128.0, -1.0, 127.0]
        );
        assert_eq!(decode(&[1], Dtype::U8), None);
    }
}
