"""How much two pictures differ, and whether they differ in steps where bands are cut."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from PIL import Image, ImageChops, ImageStat

CUT_ROWS = 32
"""Bands are cut at multiples of this, and POV-Ray's own blocks end there."""


def mean_difference(one: Path, other: Path) -> float:
    """Give the mean absolute difference of two pictures, in levels of 8 bits."""
    with Image.open(one) as first, Image.open(other) as second:
        difference = ImageChops.difference(first.convert("RGB"), second.convert("RGB"))
    means = ImageStat.Stat(difference).mean
    return sum(means) / len(means)


def largest_difference(one: Path, other: Path) -> int:
    """Give the largest difference of any channel, in levels of 8 bits."""
    with Image.open(one) as first, Image.open(other) as second:
        difference = ImageChops.difference(first.convert("RGB"), second.convert("RGB"))
    return max(int(high) for _low, high in ImageStat.Stat(difference).extrema)


def seam(one: Path, other: Path, cuts: Collection[int] | None = None) -> float:
    """Give how much stronger the difference of two pictures changes at the cuts than elsewhere.

    The means of the rows of the difference, their changes from row to row: the mean size of those
    at ``cuts`` (None: all multiples of CUT_ROWS) over that of the others, multiples left out.
    Around 1 to 2.5 for two runs of POV-Ray, whose own blocks show a little; more where light steps.
    """
    rows = [a - b for a, b in zip(_row_means(one), _row_means(other), strict=True)]
    at_cuts: list[float] = []
    elsewhere: list[float] = []
    for row in range(1, len(rows)):
        change = abs(rows[row] - rows[row - 1])
        if row % CUT_ROWS:
            elsewhere.append(change)
        elif cuts is None or row in cuts:
            at_cuts.append(change)
    usual = sum(elsewhere) / len(elsewhere)
    return sum(at_cuts) / len(at_cuts) / usual if usual else 0.0


def _row_means(path: Path) -> list[float]:
    with Image.open(path) as picture:
        pixels = picture.convert("RGB")
        size = pixels.width * 3
        data = pixels.tobytes()
    return [sum(data[at : at + size]) / size for at in range(0, len(data), size)]
