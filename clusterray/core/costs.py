"""What the pixels of a frame are believed to cost; pure.

The unit is the mean pixel of the frame. How many of these a node gets through in a second is
learned (``core.pace``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from clusterray.core.model import Rect

MAX_CELLS = 4096
"""The most cells of a map that crosses the wire: rows times columns."""
LEAST_SHARE = 1 / 64
"""No cell is believed to cost less than this part of the mean: nothing is free, and a glimpse of a
cell says little of its details."""


@dataclass(frozen=True, slots=True)
class CostMap:
    """Costs of a ``width`` x ``height`` picture, in ``rows`` x ``columns`` cells of equal size.

    ``below`` holds the sums over all cells above and left of each corner of the grid, row by row:
    (rows + 1) * (columns + 1) values. Within a cell every pixel costs the same. Made by ``of``.
    """

    width: int
    height: int
    columns: int
    rows: int
    below: tuple[float, ...]

    @classmethod
    def of(cls, width: int, height: int, columns: int, costs: Sequence[float]) -> CostMap:
        """Make a map of the costs of its cells in any unit, row by row, ``columns`` in each.

        Raises ValueError if there are no whole rows, too many cells, or all cost nothing.
        """
        if columns < 1 or not costs or len(costs) % columns or len(costs) > MAX_CELLS:
            raise ValueError(f"{len(costs)} costs are no grid of {columns} columns")
        mean = sum(costs) / len(costs)
        if not 0 < mean < float("inf") or min(costs) < 0:
            raise ValueError("costs are positive numbers")
        cells = [max(cost / mean, LEAST_SHARE) for cost in costs]
        unit = width * height / sum(cells)
        above = [0.0] * (columns + 1)
        below = list(above)
        for first in range(0, len(cells), columns):
            row = accumulate((unit * cell for cell in cells[first : first + columns]), initial=0.0)
            above = [total + part for total, part in zip(above, row, strict=True)]
            below += above
        return cls(width, height, columns, len(cells) // columns, tuple(below))

    def cost(self, rect: Rect) -> float:
        """Give what the pixels of ``rect`` are believed to cost together, more than 0."""
        return (
            self._to(rect.x1, rect.y1)
            - self._to(rect.x0, rect.y1)
            - self._to(rect.x1, rect.y0)
            + self._to(rect.x0, rect.y0)
        )

    def _to(self, x: int, y: int) -> float:
        """Give the cost of all pixels above row ``y`` and left of column ``x``."""
        column, right = divmod(min(x, self.width) * self.columns, self.width)
        row, lower = divmod(min(y, self.height) * self.rows, self.height)
        across, down = right / self.width, lower / self.height
        at = row * (self.columns + 1) + column
        upper = self._between(at, across)
        if not lower:
            return upper
        return upper + down * (self._between(at + self.columns + 1, across) - upper)

    def _between(self, at: int, across: float) -> float:
        left = self.below[at]
        return left if not across else left + across * (self.below[at + 1] - left)
