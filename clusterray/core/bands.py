"""Cutting a picture into bands, and covering it again; pure geometry.

With antialiasing method 1 POV-Ray's pixels depend on where its render blocks lie, and blocks are
anchored at the top-left of the rectangle rendered (POV-Ray 3.7 ``view.cpp``). So every edge of a
band must be a multiple of the block size, or an edge of the picture. A block larger than the
rectangle is clamped by POV-Ray to one block over all of it: the same block the whole picture has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from clusterray.core.model import Picture, Rect

FREE_ROW_STEP = 32
"""Rows between cuts where any cut is exact: the height of POV-Ray's blocks unless told otherwise,
so that a band is whole rows of blocks for POV-Ray's threads to share."""


def row_step(picture: Picture) -> int:
    """Give the number of rows whose multiples may be cut at."""
    return FREE_ROW_STEP if picture.block is None else picture.block


def render_area(picture: Picture) -> Rect:
    """Give what must be rendered for the picture's region: the region, grown to whole blocks."""
    region, block = picture.region, picture.block
    if block is None:
        return region
    return Rect(
        region.x0 // block * block,
        region.y0 // block * block,
        min(picture.width, -(-region.x1 // block) * block),
        min(picture.height, -(-region.y1 // block) * block),
    )


def cut_rows(rect: Rect, step: int) -> range:
    """Give the rows at which ``rect`` may be cut: whole steps below its top, strictly inside it.

    Where cuts must fall on multiples of the block size, every band's top is one.
    """
    return range(rect.y0 + step, rect.y1, step)


def cut_columns(rect: Rect, step: int) -> range:
    """Give the columns at which ``rect`` may be cut, as ``cut_rows`` does the rows."""
    return range(rect.x0 + step, rect.x1, step)


def rest_of(rect: Rect, keep: Rect) -> Rect | None:
    """Give what a cut takes from ``rect`` if it leaves ``keep``; None if that is no cut.

    A cut goes along a row or down a column, and leaves the upper or the left part.
    """
    if (keep.x0, keep.y0) != (rect.x0, rect.y0) or not rect.contains(keep):
        return None
    if keep.x1 == rect.x1 and keep.y1 < rect.y1:
        return Rect(rect.x0, keep.y1, rect.x1, rect.y1)
    if keep.y1 == rect.y1 and keep.x1 < rect.x1:
        return Rect(keep.x1, rect.y0, rect.x1, rect.y1)
    return None


def may_cut(rect: Rect, keep: Rect, step: int) -> bool:
    """Tell whether ``rect`` may be cut so that ``keep`` is left."""
    if rest_of(rect, keep) is None:
        return False
    return keep.y1 in cut_rows(rect, step) or keep.x1 in cut_columns(rect, step)


def equal_bands(rect: Rect, step: int, count: int) -> list[Rect]:
    """Cut ``rect`` into ``count`` bands as equal as ``step`` allows; fewer if it has few cuts."""
    rows = cut_rows(rect, step)
    count = min(count, len(rows) + 1)
    cuts = [rows[round(index * (len(rows) + 1) / count) - 1] for index in range(1, count)]
    edges = [rect.y0, *cuts, rect.y1]
    return [Rect(rect.x0, top, rect.x1, bottom) for top, bottom in pairwise(edges)]


def holes(area: Rect, rects: Iterable[Rect]) -> list[Rect]:
    """Give what disjoint ``rects`` leave of ``area``, as rectangles from top to bottom.

    Rows that lack the same columns are one rectangle.
    """
    inside = [part for part in map(area.intersection, rects) if part is not None]
    edges = sorted({area.y0, area.y1, *(y for part in inside for y in (part.y0, part.y1))})
    left: list[Rect] = []
    for top, bottom in pairwise(edges):
        row = sorted((part.x0, part.x1) for part in inside if part.y0 <= top < part.y1)
        ends = [area.x0, *(x1 for _, x1 in row)]
        begins = [*(x0 for x0, _ in row), area.x1]
        for x0, x1 in zip(ends, begins, strict=True):
            if x0 < x1:
                _append_below(left, Rect(x0, top, x1, bottom))
    return left


def _append_below(rects: list[Rect], rect: Rect) -> None:
    """Add ``rect``, or make the one just above it longer."""
    for index, above in enumerate(rects):
        if (above.x0, above.x1, above.y1) == (rect.x0, rect.x1, rect.y0):
            rects[index] = Rect(above.x0, above.y0, rect.x1, rect.y1)
            return
    rects.append(rect)


def are_disjoint(rects: Sequence[Rect]) -> bool:
    """Tell whether no pixel lies in two of ``rects``."""
    ordered = sorted(rects, key=lambda rect: rect.y0)
    for index, upper in enumerate(ordered):
        for lower in ordered[index + 1 :]:
            if lower.y0 >= upper.y1:
                break
            if upper.intersection(lower) is not None:
                return False
    return True


def covers(area: Rect, rects: Iterable[Rect]) -> bool:
    """Tell whether disjoint ``rects`` cover every pixel of ``area``."""
    parts = (area.intersection(rect) for rect in rects)
    return sum(part.area for part in parts if part is not None) == area.area
