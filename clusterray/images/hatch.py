"""What is put where a picture has no pixels yet: diagonal stripes of two greys.

Drawn in the picture's own kind of pixel, so that a partial picture is a file of its format and its
real pixels need no change. Keeps nothing; knows nothing of bands.
"""

from __future__ import annotations

import math
import struct
from typing import Final

from clusterray.core.model import FileFormat, Rect
from clusterray.images.formats import pixel_bytes
from clusterray.images.plain import ppm_value_bytes

DARK: Final = (52, 52, 58)
LIGHT: Final = (78, 78, 86)
STEP: Final = 12
"""Pixels from one stripe to the next, along a row and down a column."""
STRIPE: Final = 4
"""Pixels of a row that a stripe is wide."""


def hatch_rows(rect: Rect, kind: FileFormat) -> bytes:
    """Give rows for ``rect``, whose stripes go on in the rectangles beside and below it."""
    dark, light = hatch_pixels(kind)
    # A row may begin anywhere in the pattern, so that it is made once and a little too long.
    period = light * STRIPE + dark * (STEP - STRIPE)
    pattern = period * (rect.width // STEP + 2)
    size = len(dark)
    starts = ((rect.x0 + row) % STEP * size for row in range(rect.y0, rect.y1))
    return b"".join(pattern[start : start + rect.width * size] for start in starts)


def hatch_pixels(kind: FileFormat) -> tuple[bytes, bytes]:
    """Give the dark and the light pixel as they stand in the rows of such a picture."""
    return _pixel(DARK, kind), _pixel(LIGHT, kind)


def _pixel(rgb: tuple[int, int, int], kind: FileFormat) -> bytes:
    kind = kind.tile
    match kind.letter:
        case "T" | "B":
            return bytes(reversed(rgb)) + (b"\xff" if kind.alpha else b"")
        case "P":
            values, width = _values(rgb, kind.grey), ppm_value_bytes(kind.bits, grey=kind.grey)
            highest = (1 << kind.bits) - 1
            return b"".join(round(value * highest / 255).to_bytes(width, "big") for value in values)
        case "H":
            return _rgbe([_linear(value) for value in rgb])
        case "E":
            opaque = [1.0] if kind.alpha else []
            halves = [*map(_linear, rgb), *opaque]
            return struct.pack(f"={len(halves)}e", *halves)
    values = [*_values(rgb, kind.grey), *([255] if kind.alpha else [])]
    # 257 times an 8-bit value is the 16-bit one that shows the same.
    width = pixel_bytes(kind) // len(values)
    return b"".join((value * (257 if width == 2 else 1)).to_bytes(width, "big") for value in values)


def _values(rgb: tuple[int, int, int], grey: bool) -> list[int]:
    return [rgb[1]] if grey else list(rgb)


def _linear(value: int) -> float:
    """Give the light that a screen gives off for an sRGB value (IEC 61966-2-1)."""
    bent = value / 255
    return bent / 12.92 if bent <= 0.04045 else ((bent + 0.055) / 1.055) ** 2.4


def _rgbe(light: list[float]) -> bytes:
    """Pack three values into Radiance's mantissas and their one exponent."""
    _, exponent = math.frexp(max(light))
    scale = 256 / 2.0**exponent
    return bytes(min(255, int(value * scale)) for value in light) + bytes((exponent + 128,))
