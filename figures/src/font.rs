//! The embedded font: DejaVu Sans cut to Latin, Greek and mathematical signs
//! (`assets/subset.py`; licence in `assets/LICENSE-DejaVu.txt`).
//!
//! No system font is ever asked for, so a figure has the same bytes everywhere.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, PxScale, ScaleFont};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The font family named in the SVG figures.
pub const FONT_FAMILY: &str = "Rankwise Figures";

const TTF: &[u8] = include_bytes!("../assets/figures.ttf");

/// The CSS `@font-face` rule that defines [`FONT_FAMILY`] with a data URI; a
/// page that holds inline figures needs it once.
pub static FONT_FACE_CSS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "@font-face{{font-family:\"{FONT_FAMILY}\";src:url(data:font/ttf;base64,{}) format(\"truetype\")}}",
        STANDARD.encode(TTF)
    )
});

static FONT: LazyLock<FontRef<'static>> =
    LazyLock::new(|| FontRef::try_from_slice(TTF).expect("the embedded font is well formed"));

/// Height of a capital and of a lower-case x, in em.
pub(crate) const CAPITAL_HEIGHT: f64 = 1493.0 / 2048.0;
pub(crate) const X_HEIGHT: f64 = 1120.0 / 2048.0;

/// The width of a line of text, in the unit of `size` (one em).
pub(crate) fn width(text: &str, size: f64) -> f64 {
    let font = FONT.as_scaled(em(size));
    let width: f32 = text.chars().map(|c| font.h_advance(font.glyph_id(c))).sum();
    f64::from(width)
}

/// Gives `paint` the pixels that a line of text covers, with their coverage in
/// `(0, 1]`, when its baseline starts at the origin; x to the right, y down.
pub(crate) fn cover(text: &str, size: f64, mut paint: impl FnMut(i32, i32, f64)) {
    let font = FONT.as_scaled(em(size));
    let mut x = 0.0;
    for c in text.chars() {
        let id = font.glyph_id(c);
        let glyph = id.with_scale_and_position(font.scale(), ab_glyph::point(x, 0.0));
        x += font.h_advance(id);
        let Some(outline) = FONT.outline_glyph(glyph) else {
            continue;
        };
        let corner = outline.px_bounds().min;
        outline.draw(|dx, dy, coverage| {
            if coverage > 0.0 {
                let (px, py) = (corner.x as i32 + dx as i32, corner.y as i32 + dy as i32);
                paint(px, py, f64::from(coverage.min(1.0)));
            }
        });
    }
}

/// The scale at which one em is `size` pixels: `ab_glyph` counts from the
/// ascender to the descender instead.
fn em(size: f64) -> PxScale {
    let units = FONT
        .units_per_em()
        .expect("the embedded font states its units per em");
    PxScale::from(size as f32 * FONT.height_unscaled() / units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advances_are_those_of_the_font() {
        // The digits of DejaVu Sans are all 1303 units of 2048 wide (hmtx).
        let expected = 3.0 * 1303.0 / 2048.0 * 100.0;
        assert!((width("123", 100.0) - expected).abs() < 1e-3);
    }

    #[test]
    fn a_capital_is_as_high_as_stated() {
        let (mut top, mut bottom) = (i32::MAX, i32::MIN);
        cover("H", 1000.0, |_, y, coverage| {
            if coverage > 0.5 {
                top = top.min(y);
                bottom = bottom.max(y);
            }
        });
        assert_eq!(bottom, -1);
        assert!((f64::from(-top) - 1000.0 * CAPITAL_HEIGHT).abs() <= 1.0);
    }

    #[test]
    fn the_font_has_the_signs_that_labels_need() {
        for c in "AZaz09ΔΣσελτκρ⊤‖≤≥≈±×·−…√∞∑∈ℓ→⁰¹²³⁴⁵⁶⁷⁸⁹⁻₀₁₂₃—–é".chars()
        {
            assert_ne!(FONT.glyph_id(c).0, 0, "{c}");
        }
    }

    #[test]
    fn the_rule_holds_the_whole_font() {
        let start = FONT_FACE_CSS.find("base64,").unwrap() + 7;
        let end = FONT_FACE_CSS.find(") format").unwrap();
        assert_eq!(STANDARD.decode(&FONT_FACE_CSS[start..end]).unwrap(), TTF);
    }
}
