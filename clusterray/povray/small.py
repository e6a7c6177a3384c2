"""A frame made small, for a probe or a scout: without what costs much and tells them nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from clusterray.core.model import Rect
from clusterray.povray.spec import RenderSpec, canonical_options

MOST_WHOLE: Final = 1 << 20
"""What POV-Ray holds in memory, and writes, is the whole picture, however little it renders."""
_BLOCK_SIZE: Final = "Render_Block_Size"
_LEFT_OUT: Final = frozenset(
    {
        *("Antialias", "Antialias_Threshold", "Antialias_Depth", "Antialias_Gamma"),
        *("Sampling_Method", "Jitter", "Jitter_Amount", "Compression", _BLOCK_SIZE),
    }
)


def largest_scale(spec: RenderSpec) -> float:
    """Give the scale at which the whole picture is as large as it may be, at most 1."""
    return min(1.0, math.sqrt(MOST_WHOLE / (spec.width * spec.height)))


def shrunk(
    spec: RenderSpec, region: Rect, scale: float, *, block: int, bits: int
) -> tuple[RenderSpec, Rect]:
    """Give the spec of the whole frame at ``scale``, and where ``region`` is in it.

    Without antialiasing and light of others, in blocks of ``block`` pixels, as PNG with ``bits``.
    """
    width, height = (max(1, round(side * scale)) for side in (spec.width, spec.height))
    x0, x1 = _scaled(region.x0, region.x1, width / spec.width, width)
    y0, y1 = _scaled(region.y0, region.y1, height / spec.height, height)
    kept = [(name, value) for name, value in spec.options if name not in _LEFT_OUT]
    small = replace(
        spec,
        width=width,
        height=height,
        region=None,
        file_type="N",
        bits=bits,
        grey=False,
        options=canonical_options([*kept, (_BLOCK_SIZE, block)]),
        light=(),
        photon_files=(),
        sources={},
    )
    return small, Rect(x0, y0, x1, y1)


def _scaled(begin: int, end: int, scale: float, limit: int) -> tuple[int, int]:
    first = min(math.floor(begin * scale), limit - 1)
    return first, min(max(math.ceil(end * scale), first + 1), limit)
