"""What a probe renders: the frame small, twice, with other threads and its blocks in another order.

Where POV-Ray draws random numbers, or remembers what it did before, the two differ. The order
matters more than the threads: of a picture that is quick one thread may render nearly all. Pure;
how the renders are run is node.probe's business, what follows core.fidelity's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from clusterray.core.model import Rect
from clusterray.povray.small import largest_scale, shrunk
from clusterray.povray.spec import RenderSpec

SHARE = 100
"""A probe has this part of the wanted pixels, so that both renders cost about 2 % of them."""
LEAST_PIXELS, MOST_PIXELS = 32 * 24, 96 * 72
"""Fewer see too little, and more no more."""
_BLOCK = 8


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
    scale = min(largest_scale(spec), math.sqrt(pixels / region.area))
    bits = 16 if spec.file_format.bits > 8 else 8
    return shrunk(spec, region, scale, block=_BLOCK, bits=bits)
