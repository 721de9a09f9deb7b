//! Colours, line styles and markers.

/// An opaque sRGB colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Color {
    /// Red, 0 to 255.
    pub red: u8,
    /// Green, 0 to 255.
    pub green: u8,
    /// Blue, 0 to 255.
    pub blue: u8,
}

impl Color {
    /// The colour `0xRRGGBB`.
    pub const fn hex(rgb: u32) -> Self {
        let [_, red, green, blue] = rgb.to_be_bytes();
        Self { red, green, blue }
    }

    /// Relative luminance in `[0, 1]`, as WCAG 2 defines it: what is left of
    /// the colour in a grey print.
    ///
    /// ```
    /// use rankwise_figures::Color;
    ///
    /// let green = Color { red: 0, green: 255, blue: 0 };
    /// assert!((green.luminance() - 0.7152).abs() < 1e-12);
    /// ```
    pub fn luminance(self) -> f64 {
        let linear = |channel: u8| {
            let c = f64::from(channel) / 255.0;
            if c <= 0.04045 {
                c / 12.92
            } else {
                ((c + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * linear(self.red) + 0.7152 * linear(self.green) + 0.0722 * linear(self.blue)
    }
}

/// The eight colours of Okabe and Ito (*Color Universal Design*, 2008), which
/// stay apart under the common forms of colour blindness.
///
/// In the order blue, orange, bluish green, vermillion, black, sky blue,
/// reddish purple, yellow: the first five, enough for five methods, also
/// differ in luminance by at least 0.035 each. That is little in a grey print:
/// markers and strokes have to help there.
/// Yellow, the palest on white, comes last.
pub const PALETTE: [Color; 8] = [
    Color::hex(0x0072B2),
    Color::hex(0xE69F00),
    Color::hex(0x009E73),
    Color::hex(0xD55E00),
    Color::hex(0x000000),
    Color::hex(0x56B4E9),
    Color::hex(0xCC79A7),
    Color::hex(0xF0E442),
];

pub(crate) const WHITE: Color = Color::hex(0xFFFFFF);
pub(crate) const INK: Color = Color::hex(0x222222);
pub(crate) const GREY: Color = Color::hex(0x666666);
pub(crate) const RULE: Color = Color::hex(0xE4E4E4);

/// How a line is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stroke {
    /// Unbroken.
    #[default]
    Solid,
    /// Long dashes.
    Dashed,
    /// Dots.
    Dotted,
    /// Long dashes and dots in turn.
    DashDot,
}

impl Stroke {
    /// Drawn and left-out lengths in turn, in line widths; empty when unbroken.
    pub(crate) fn pattern(self) -> &'static [f64] {
        match self {
            Self::Solid => &[],
            Self::Dashed => &[4.5, 2.2],
            Self::Dotted => &[1.2, 1.6],
            Self::DashDot => &[5.5, 1.8, 1.2, 1.8],
        }
    }
}

/// The shape of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Marker {
    /// A disc.
    Circle,
    /// An upright square.
    Square,
    /// A triangle standing on its base.
    Triangle,
    /// A square on its corner.
    Diamond,
    /// A diagonal cross.
    Cross,
}

impl Marker {
    /// The outline about the origin, y downwards; the areas of the shapes are
    /// close to that of the disc of radius 1, so that none looks larger.
    pub(crate) fn outline(self) -> Vec<(f64, f64)> {
        match self {
            Self::Circle => (0..24)
                .map(|k| {
                    let (sin, cos) = (f64::from(k) * std::f64::consts::TAU / 24.0).sin_cos();
                    (cos, sin)
                })
                .collect(),
            Self::Square => vec![(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
            Self::Triangle => vec![(0.0, -1.3), (1.2, 0.85), (-1.2, 0.85)],
            Self::Diamond => vec![(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
            Self::Cross => {
                // Arms of half-width `a`, reaching out to `b` on the diagonals.
                let (a, b) = (0.42, 1.1);
                vec![
                    (0.0, -a),
                    (b - a, -b),
                    (b, a - b),
                    (a, 0.0),
                    (b, b - a),
                    (b - a, b),
                    (0.0, a),
                    (a - b, b),
                    (-b, b - a),
                    (-a, 0.0),
                    (-b, a - b),
                    (a - b, -b),
                ]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_five_colours_differ_in_luminance() {
        let mut luminance: Vec<f64> = PALETTE[..5].iter().map(|c| c.luminance()).collect();
        luminance.sort_by(f64::total_cmp);
        for pair in luminance.windows(2) {
            assert!(pair[1] - pair[0] >= 0.035, "{luminance:?}");
        }
    }

    #[test]
    fn markers_cover_similar_areas() {
        for marker in [
            Marker::Circle,
            Marker::Square,
            Marker::Triangle,
            Marker::Diamond,
            Marker::Cross,
        ] {
            let outline = marker.outline();
            let area: f64 = (0..outline.len())
                .map(|k| {
                    let ((x0, y0), (x1, y1)) = (outline[k], outline[(k + 1) % outline.len()]);
                    (x0 * y1 - x1 * y0) / 2.0
                })
                .sum();
            assert!((2.0..3.6).contains(&area.abs()), "{marker:?}: {area}");
        }
    }
}
