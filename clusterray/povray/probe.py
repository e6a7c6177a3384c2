"""What a probe renders: the frame small, twice, with other threads and its blocks in another order.

Where POV-Ray draws random numbers, or remembers what it did before, the two differ. The order
matters more than the threads: of a picture that is quick one thread may render nearly all. Pure;
how the renders are run is node.probe's business, what follows core.fidelity's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from clusterray.core.model import Rect
from clusterray.povray.option_table import Value
from clusterray.povray.spec import RenderSpec, canonical_options

SHARE = 100
"""A probe has this part of the wanted pixels, so that both renders cost about 2 % of them."""
LEAST_PIXELS, MOST_PIXELS = 32 * 24, 96 * 72
"""Fewer see too little, and more no more."""
_MOST_WHOLE = 1 << 20
"""What POV-Ray holds in memory, and writes, is the whole picture, however little it renders."""
_BLOCK = 8
_AT_WORK: dict[str, Value] = {"Render_Block_Size": _BLOCK}
_LEFT_OUT = frozenset(
    {
        *("Antialias", "Antialias_Threshold", "Antialias_Depth", "Antialias_Gamma"),
        *("Sampling_Method", "Jitter", "Jitter_Amount", "Compression", *_AT_WORK),
    }
)


@dataclass(frozen=True, slots=True)
class ProbeRun:
    """One of the two renders: POV-Ray's threads, and words that change nothing but the order."""

    threads: int
    words: tuple[str, ...] = ()


RUNS = (ProbeRun(1), ProbeRun(2, ("+RP3", "+RS5")))


def probe_of(spec: RenderSpec) -> tuple[RenderSpec, Rect]:
    """Give the small picture's spec, and what of it is to be rendered: the region of the frame.

    Without antialiasing, which draws no random numbers (POV-Ray, source/backend/support/jitter.h),
    in small blocks, as PNG with the depth that the picture has.
    """
    region = spec.region or Rect(0, 0, spec.width, spec.height)
    pixels = min(max(region.area // SHARE, LEAST_PIXELS), MOST_PIXELS)
    scale = min(
        1.0,
        math.sqrt(pixels / region.area),
        math.sqrt(_MOST_WHOLE / (spec.width * spec.height)),
    )
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
        bits=16 if spec.file_format.bits > 8 else 8,
        grey=False,
        options=canonical_options([*kept, *_AT_WORK.items()]),
        light=(),
        photon_files=(),
        sources={},
    )
    return small, Rect(x0, y0, x1, y1)


def _scaled(begin: int, end: int, scale: float, limit: int) -> tuple[int, int]:
    first = min(math.floor(begin * scale), limit - 1)
    return first, min(max(math.ceil(end * scale), first + 1), limit)
