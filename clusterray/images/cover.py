"""The rectangles of a picture that are there already, found again by where they lie.

A frame may be cut into tens of thousands of tiles: to hold each against all others would take
longer than to render them. Pure geometry; owned by one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from clusterray.core.model import Rect

_STRIP_ROWS: Final = 64


class Cover:
    """Disjoint rectangles; ``area`` counts their pixels."""

    def __init__(self) -> None:
        self.area = 0
        self.rects: list[Rect] = []
        self._strips: dict[int, list[Rect]] = {}

    def add(self, rect: Rect) -> None:
        """Take a rectangle that overlaps none."""
        self.area += rect.area
        self.rects.append(rect)
        for strip in _strips(rect):
            self._strips.setdefault(strip, []).append(rect)

    def overlapped_by(self, rect: Rect) -> Rect | None:
        """Give one that shares pixels with ``rect``, None if none does."""
        near = (other for strip in _strips(rect) for other in self._strips.get(strip, ()))
        return next((other for other in near if other.intersection(rect) is not None), None)


def _strips(rect: Rect) -> Iterator[int]:
    return iter(range(rect.y0 // _STRIP_ROWS, (rect.y1 - 1) // _STRIP_ROWS + 1))
