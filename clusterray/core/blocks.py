"""Where POV-Ray's render blocks lie in a rectangle, and in which order they are rendered; pure.

Source: POV-Ray 3.7 ``view.cpp``: from the top left of the rectangle rendered, row by row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from clusterray.core.model import Rect


@dataclass(frozen=True, slots=True)
class BlockGrid:
    """The blocks of ``size`` pixels that POV-Ray renders ``rect`` in, by serial from 0.

    ``size`` may be larger than the rectangle: POV-Ray then has one block of the rectangle's size.
    """

    rect: Rect
    size: int

    @property
    def columns(self) -> int:
        """Blocks in a row."""
        return -(-self.rect.width // self.size)

    @property
    def rows(self) -> int:
        """Rows of blocks."""
        return -(-self.rect.height // self.size)

    @property
    def count(self) -> int:
        """Blocks in all."""
        return self.columns * self.rows

    def block(self, serial: int) -> Rect:
        """Give the pixels of a block; ValueError if there is no such serial."""
        if not 0 <= serial < self.count:
            raise ValueError(f"there is no block {serial} among {self.count}")
        row, column = divmod(serial, self.columns)
        x0, y0 = self.rect.x0 + column * self.size, self.rect.y0 + row * self.size
        return Rect(x0, y0, min(x0 + self.size, self.rect.x1), min(y0 + self.size, self.rect.y1))

    def serial(self, block: Rect) -> int | None:
        """Give the serial of a block, None if no block of the grid has exactly these pixels."""
        rect, size = self.rect, self.size
        column, left = divmod(block.x0 - rect.x0, size)
        row, above = divmod(block.y0 - rect.y0, size)
        if left or above or column < 0 or row < 0:
            return None
        right, bottom = min(block.x0 + size, rect.x1), min(block.y0 + size, rect.y1)
        return row * self.columns + column if (block.x1, block.y1) == (right, bottom) else None

    def area(self, serials: Iterable[int]) -> int:
        """Give the number of pixels in these blocks."""
        wanted = frozenset(serials)
        if len(wanted) == self.count:
            return self.rect.area
        return sum(self.block(serial).area for serial in wanted)

    def whole_rows(self, serials: Iterable[int]) -> list[tuple[int, int]]:
        """Give the rows of pixels whose blocks are all among ``serials``: half-open ranges."""
        have = set(serials)
        found: list[tuple[int, int]] = []
        for first in range(0, self.count, self.columns):
            if not have.issuperset(range(first, first + self.columns)):
                continue
            block = self.block(first)
            if found and found[-1][1] == block.y0:
                found[-1] = (found[-1][0], block.y1)
            else:
                found.append((block.y0, block.y1))
        return found
