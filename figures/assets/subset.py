"""Cuts DejaVu Sans down to the characters the figures use.

    python3 subset.py /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf

writes `figures.ttf` beside this script. Needs fontTools (4.38 was used, with
DejaVu Sans 2.37). Layout tables are dropped, so that a browser and the bitmap
renderer advance by the same widths.
"""

import sys
from pathlib import Path

from fontTools import subset

LATIN = [*range(0x20, 0x7F), *range(0xA0, 0x180)]
GREEK = [*range(0x391, 0x3A2), *range(0x3A3, 0x3AA), *range(0x3B1, 0x3CA), 0x3D1, 0x3D5, 0x3F5]
SIGNS = [ord(sign) for sign in "–—‘’“”†‡…′″‰ℓ→←↑↓↔∂∆∇∈∉∏∑−∓√∝∞∥‖∧∨∩∪∫≈≠≡≤≥≪≫⊂⊆⊕⊗⊤⊥⋅⌈⌉⌊⌋ℝ½ˢᵀ"]
ACCENTS = [*range(0x300, 0x305), 0x307, 0x308]
RAISED = [ord(digit) for digit in "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ₀₁₂₃₄₅₆₇₈₉₊₋"]

options = subset.Options(layout_features=[], hinting=False, drop_tables=["FFTM", "GDEF", "GPOS", "GSUB", "MATH", "kern"])
font = subset.load_font(sys.argv[1], options)
cutter = subset.Subsetter(options)
cutter.populate(unicodes=LATIN + GREEK + SIGNS + ACCENTS + RAISED)
cutter.subset(font)
for record in font["name"].names:
    if record.nameID in (1, 4, 16):
        record.string = "Rankwise Figures"
# The stamp would make every run's bytes differ.
font.recalcTimestamp = False
subset.save_font(font, Path(__file__).with_name("figures.ttf"), options)
