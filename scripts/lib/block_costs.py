"""What the render blocks of a picture cost, as it was measured once, kept in small text files.

A file holds one scene: a fine grid of costs, and what low-resolution renders of the same scene, a
node's *scouts*, would have made of them. Costs are kept with a relative error below two per cent:
a byte is a step of a geometric scale. No I/O but the reading and writing of these files.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_RATIO = 1.035
"""From one step of the scale to the next; 255 of them are a factor of 6,400."""


@dataclass(frozen=True, slots=True)
class CostGrid:
    """Seconds of one thread for each block, row by row, ``columns`` to a row."""

    columns: int
    rows: int
    costs: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.costs) != self.columns * self.rows:
            raise ValueError(f"{len(self.costs)} costs are not {self.columns}x{self.rows}")

    @property
    def total(self) -> float:
        """Seconds of one thread for all of it."""
        return math.fsum(self.costs)

    def scaled(self, total: float) -> CostGrid:
        """Give the same grid with another total."""
        factor = total / self.total
        return CostGrid(self.columns, self.rows, tuple(factor * cost for cost in self.costs))

    def calmed(self) -> CostGrid:
        """Give the grid without what no picture has: a block twice as dear as all around it."""
        costs = list(self.costs)
        for y in range(self.rows):
            for x in range(self.columns):
                most = 2 * max(self._around(x, y))
                costs[y * self.columns + x] = min(self.costs[y * self.columns + x], most)
        return CostGrid(self.columns, self.rows, tuple(costs))

    def _around(self, x: int, y: int) -> list[float]:
        """Give the costs of the up to eight blocks around one."""
        return [
            self.costs[row * self.columns + column]
            for row in range(max(0, y - 1), min(self.rows, y + 2))
            for column in range(max(0, x - 1), min(self.columns, x + 2))
            if (column, row) != (x, y)
        ]

    def at(self, columns: int, rows: int) -> CostGrid:
        """Give the costs for another grid over the same picture, spread evenly within a block."""
        across = [_overlaps(x, columns, self.columns) for x in range(columns)]
        down = [_overlaps(y, rows, self.rows) for y in range(rows)]
        lines = [
            [sum(line[x] * share for x, share in parts) for parts in across]
            for line in (
                self.costs[y * self.columns : (y + 1) * self.columns] for y in range(self.rows)
            )
        ]
        costs = [
            sum(lines[y][x] * share for y, share in parts) for parts in down for x in range(columns)
        ]
        return CostGrid(columns, rows, tuple(costs))


@dataclass(frozen=True, slots=True)
class Scout:
    """A quick render of the whole picture: its size, whether antialiased, what its blocks cost.

    In the unit of the scene's own costs, so that their ratio is the scout's price.
    """

    width: int
    height: int
    antialias: bool
    grid: CostGrid


@dataclass(frozen=True, slots=True)
class SceneCosts:
    """What was measured of one scene; ``switches`` are those that made the fine grid."""

    name: str
    switches: tuple[str, ...]
    grid: CostGrid
    scouts: tuple[Scout, ...]


def write_costs(path: Path, scene: SceneCosts) -> None:
    """Write one scene's file."""
    scouts = [{**asdict(scout), "grid": _packed(scout.grid)} for scout in scene.scouts]
    fields = {"name": scene.name, "switches": scene.switches, "grid": _packed(scene.grid)}
    path.write_text(json.dumps({**fields, "scouts": scouts}, indent=1) + "\n", encoding="ascii")


def read_costs(path: Path) -> SceneCosts:
    """Read what ``write_costs`` wrote."""
    fields = json.loads(path.read_text(encoding="ascii"))
    scouts = tuple(Scout(**{**each, "grid": _unpacked(each["grid"])}) for each in fields["scouts"])
    return SceneCosts(fields["name"], tuple(fields["switches"]), _unpacked(fields["grid"]), scouts)


def _overlaps(index: int, count: int, theirs: int) -> list[tuple[int, float]]:
    """Give which of ``theirs`` equal parts the part ``index`` of ``count`` covers, how much each.

    In shares of theirs, so that a sum over all parts is kept.
    """
    low, high = index * theirs / count, (index + 1) * theirs / count
    parts = []
    for part in range(int(low), min(theirs, math.ceil(high))):
        share = min(high, part + 1) - max(low, part)
        if share > 1e-9:
            parts.append((part, share))
    return parts


def _packed(grid: CostGrid) -> dict[str, Any]:
    unit = max(grid.costs) / _RATIO**255
    steps = bytes(max(0, round(math.log(max(cost, unit) / unit, _RATIO))) for cost in grid.costs)
    blocks = base64.b85encode(zlib.compress(_differences(steps, grid.columns), 9)).decode("ascii")
    return {"columns": grid.columns, "rows": grid.rows, "total": grid.total, "blocks": blocks}


def _unpacked(fields: dict[str, Any]) -> CostGrid:
    differences = zlib.decompress(base64.b85decode(fields["blocks"]))
    steps = _sums(differences, fields["columns"])
    grid = CostGrid(fields["columns"], fields["rows"], tuple(_RATIO**step for step in steps))
    return grid.scaled(fields["total"])


def _differences(steps: bytes, columns: int) -> bytes:
    """Give each step less the one above it, which packs better."""
    above = bytes(columns) + steps
    return bytes((step - up) & 255 for step, up in zip(steps, above, strict=False))


def _sums(differences: Sequence[int], columns: int) -> bytes:
    steps = bytearray(columns)
    for difference in differences:
        steps.append((steps[-columns] + difference) & 255)
    return bytes(steps[columns:])
