"""What a scout renders and what it learns: the frame small, one thread, first tiny and then finer.

The tiny one costs a few thousandths of the frame and tells how dear a pixel is; finer ones follow
if they promise to stay within a budget. What each part costs is read off the times at which POV-Ray
appends finished blocks to its state file, record by record as they are done (seen with Debian's
3.7.0.10). Pure; how the renders are run is node.scout's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from clusterray.core.blocks import BlockGrid
from clusterray.core.model import Rect
from clusterray.povray.option_table import declared_name
from clusterray.povray.small import largest_scale, shrunk
from clusterray.povray.spec import RenderSpec

FIRST_SIDE = 16
"""A side of the first picture has this part of the frame's,"""
FIRST_PIXELS = 1200
"""but no more pixels than that,"""
LEAST_WIDTH = 16
"""nor fewer columns than that."""
MOST_PIXELS = 320 * 240
"""No picture is larger: it crosses the wire in a message."""
BUDGET_S = 2.0
"""CPU seconds that a scout may cost in all, parsing too;"""
SHARE = 0.008
"""nor may it cost more than this part of what the frame is believed to, by what was seen so far."""
FIRST_SHARE = 0.02
"""The first picture alone goes on beyond the budget while it costs no more than this."""
FINEST = 1 / 16
"""No picture after the first has more than this part of the frame's pixels."""
FINER = 3.0
"""A finer picture has at least so many times the pixels, or it is not worth its start."""
START_S = 0.06
"""CPU seconds of a start of POV-Ray that renders nothing (measured)."""
ANTIALIAS_FACTOR = 2.0
"""A pixel of the frame costs about so much more where it is antialiased, which no scout is."""
LEAST_LOOKS = 8
"""What the parts of a picture cost is told if its blocks were found at so many times, not if it was
done in a moment."""
CELLS = 64
"""The map of costs has at most so many rows and columns."""
_BLOCK = 4


@dataclass(frozen=True, slots=True)
class Glance:
    """One picture of a scout: the small frame's spec, what of it is wanted, words besides.

    The words have the scene find the size of the frame itself, so that what it makes of that is
    the same and a fault that it finds is the frame's.
    """

    spec: RenderSpec
    rect: Rect
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a picture cost: CPU seconds in all and of tracing, and the pixels traced so far."""

    spent_s: float
    traced_s: float
    pixels: int


def region_of(spec: RenderSpec) -> Rect:
    """Give what is wanted of the frame."""
    return spec.region or Rect(0, 0, spec.width, spec.height)


def first_scale(spec: RenderSpec) -> float:
    """Give the scale of the first picture."""
    region = region_of(spec)
    scale = min(1 / FIRST_SIDE, math.sqrt(FIRST_PIXELS / region.area))
    return _bounded(max(scale, LEAST_WIDTH / region.width), spec)


def finer_scale(spec: RenderSpec, spent_s: float, seen: Seen) -> float | None:
    """Give the scale of the next picture, None for none; ``spent_s``: by all so far."""
    if not seen.pixels or seen.traced_s <= 0:
        return None
    left_s = min(BUDGET_S, SHARE * _believed_s(spec, seen)) - spent_s
    # It parses, and makes light of its own, as the one before did.
    left_s -= max(START_S, seen.spent_s - seen.traced_s)
    area = region_of(spec).area
    pixels = min(left_s * seen.pixels / seen.traced_s, MOST_PIXELS, area * FINEST)
    if pixels < FINER * seen.pixels:
        return None
    return _bounded(math.sqrt(pixels / area), spec)


def is_too_dear(spec: RenderSpec, seen: Seen) -> bool:
    """Tell whether the first picture, of which this was seen so far, should be given up.

    What takes the budget without a pixel (parsing, photons, radiosity) costs the frame much too,
    but nobody knows how much.
    """
    return seen.spent_s > max(BUDGET_S, FIRST_SHARE * _believed_s(spec, seen))


def _believed_s(spec: RenderSpec, seen: Seen) -> float:
    """Give what tracing the frame should cost, in CPU seconds; 0 while nothing is known."""
    if not seen.pixels:
        return 0.0
    factor = ANTIALIAS_FACTOR if spec.antialias else 1.0
    return factor * seen.traced_s * region_of(spec).area / seen.pixels


def _bounded(scale: float, spec: RenderSpec) -> float:
    return min(scale, largest_scale(spec))


def glance_of(spec: RenderSpec, scale: float) -> Glance:
    """Give the picture of a frame at ``scale``, at most 1.

    Without antialiasing, in the smallest blocks, as PNG with 8 bits.
    """
    small, rect = shrunk(spec, region_of(spec), scale, block=_BLOCK, bits=8)
    declared = {declared_name(str(value)) for name, value in spec.options if name == "Declare"}
    sizes = {"image_width": spec.width, "image_height": spec.height}
    words = (f"Declare={name}={size}" for name, size in sizes.items() if name not in declared)
    return Glance(replace(small, alpha=False), rect, tuple(words))


# ---------------------------------------------------------------- what it costs


class BlockTimes:
    """When the blocks of a picture were finished, as its state file grew; one thread owns it."""

    def __init__(self) -> None:
        self.pixels = 0
        """Of the blocks noted so far."""
        self._looks = 0
        self._at = 0.0
        self._first: list[Rect] = []
        self._first_s = 0.0
        self._others: list[tuple[Rect, float]] = []

    def note(self, blocks: Sequence[Rect], now: float, *, begun: bool) -> None:
        """Take the blocks that were found at ``now``, in POV-Ray's CPU seconds, in their order.

        ``begun``: the file is there, which POV-Ray makes when it has parsed. Blocks found together
        share the time since the ones before, the first ones that since the file came.
        """
        if not begun:
            self._at = now
        if not blocks:
            return
        took, self._at = max(0.0, now - self._at), now
        area = _area(blocks)
        self.pixels += area
        self._looks += 1
        if self._looks == 1:
            self._first, self._first_s = list(blocks), took
        else:
            self._others += [(block, took * block.area / area) for block in blocks]

    @property
    def traced_s(self) -> float:
        """CPU seconds of tracing the blocks noted."""
        return sum(cost for _, cost in self._all())

    def costs(self) -> list[tuple[Rect, float]]:
        """Give each block and what it cost in CPU seconds; none where they came too fast to be told
        apart.
        """
        return self._all() if self._looks >= LEAST_LOOKS else []

    def _all(self) -> list[tuple[Rect, float]]:
        if not self._others:
            return []
        known = sum(cost for _, cost in self._others)
        mean = known / _area([block for block, _ in self._others])
        # It may have made photons, or gathered light, before the first ones.
        first = min(mean, self._first_s / _area(self._first))
        return [*((block, first * block.area) for block in self._first), *self._others]


def _area(blocks: Iterable[Rect]) -> int:
    return sum(block.area for block in blocks)


def cost_grid(
    size: tuple[int, int], costs: Iterable[tuple[Rect, float]]
) -> tuple[int, list[float]] | None:
    """Spread the costs of a small picture of ``size`` over the cells of a map of all of it.

    Gives its columns and the costs of its cells, row by row; cells of which nothing is known have
    the mean cost. None where nothing at all was found to cost anything.
    """
    grid = BlockGrid(Rect(0, 0, *size), _BLOCK)
    columns = min(CELLS, grid.columns)
    rows = min(CELLS, grid.count // grid.columns)
    cells, areas = [0.0] * (columns * rows), [0.0] * (columns * rows)
    for block, cost in costs:
        for x, across in _shares(block.x0, block.x1, columns / size[0]):
            for y, down in _shares(block.y0, block.y1, rows / size[1]):
                at = min(y, rows - 1) * columns + min(x, columns - 1)
                cells[at] += cost * across * down
                areas[at] += block.area * across * down
    area = sum(areas)
    if not area or sum(cells) <= 0:
        return None
    whole = size[0] * size[1] / len(cells)
    mean = sum(cells) / area
    # A cell of which a part is known is as dear all over as that part is.
    return columns, [
        whole * (cost / part if part else mean) for cost, part in zip(cells, areas, strict=True)
    ]


def _shares(begin: int, end: int, scale: float) -> list[tuple[int, float]]:
    """Give the cells that ``begin`` to ``end`` fall into along one side, and what part of it."""
    first, last = begin * scale, end * scale
    cells = range(math.floor(first), max(math.ceil(last - 1e-9), math.floor(first) + 1))
    length = last - first
    return [(cell, (min(last, cell + 1) - max(first, cell)) / length) for cell in cells]
