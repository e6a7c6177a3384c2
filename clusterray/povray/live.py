"""A small picture of a band in which finished blocks are drawn as they come: one pixel of several.

Of every ``step`` columns and rows one is looked at, so that it costs little however large the band
is. One thread owns it. Pure; knows nothing of files.
"""

from __future__ import annotations

from clusterray.core.model import Rect
from clusterray.povray.state_file import Block


class SmallCanvas:
    """The picture of ``rect`` of a frame of ``size``, of which each pixel stands for a square.

    The squares lie in the frame's own grid, and the middle of each is what is shown of it.
    """

    def __init__(
        self, rect: Rect, size: tuple[int, int], step: int, assumed_gamma: float | None
    ) -> None:
        self._size = size
        self._step = step
        self._assumed_gamma = assumed_gamma
        self._x0, self._y0 = rect.x0 // step, rect.y0 // step
        self._columns = -(-rect.x1 // step) - self._x0
        self._rows = -(-rect.y1 // step) - self._y0
        self._rgba = bytearray(4 * self._columns * self._rows)
        self._new: Rect | None = None

    def draw(self, block: Block) -> None:
        """Draw what of a block's pixels is looked at, if it lies in the picture."""
        columns = _middles(block.rect.x0, block.rect.x1, self._step)
        rows = _middles(block.rect.y0, block.rect.y1, self._step)
        if not columns or not rows:
            return
        x, y = columns[0] // self._step - self._x0, rows[0] // self._step - self._y0
        fits = 0 <= x <= self._columns - len(columns) and 0 <= y <= self._rows - len(rows)
        if not fits:
            return
        rgba = block.sampled(
            range(columns[0] - block.rect.x0, block.rect.width, self._step),
            range(rows[0] - block.rect.y0, block.rect.height, self._step),
            self._assumed_gamma,
        )
        size = 4 * len(columns)
        for number in range(len(rows)):
            at = 4 * ((y + number) * self._columns + x)
            self._rgba[at : at + size] = rgba[number * size : (number + 1) * size]
        drawn = Rect(x, y, x + len(columns), y + len(rows))
        self._new = drawn if self._new is None else _around(self._new, drawn)

    def take(self) -> tuple[Rect, tuple[int, int], bytes] | None:
        """Give what was drawn since the last time, None if nothing was.

        That is the pixels of the frame that it stands for, its width and height, and rows of red,
        green, blue and alpha, 0 where there is nothing or nothing new; it is forgotten then.
        """
        new = self._new
        if new is None:
            return None
        rows = []
        for row in range(new.y0, new.y1):
            at = 4 * (row * self._columns + new.x0)
            end = at + 4 * new.width
            rows.append(bytes(self._rgba[at:end]))
            self._rgba[at:end] = bytes(end - at)
        self._new = None
        x, y, step = self._x0 + new.x0, self._y0 + new.y0, self._step
        rect = Rect(
            x * step,
            y * step,
            min((x + new.width) * step, self._size[0]),
            min((y + new.height) * step, self._size[1]),
        )
        return rect, (new.width, new.height), b"".join(rows)


def _middles(begin: int, end: int, step: int) -> range:
    """Give the middles of the steps that lie in ``begin`` to ``end``."""
    middle = step // 2
    return range(begin + (middle - begin) % step, end, step)


def _around(one: Rect, other: Rect) -> Rect:
    return Rect(
        min(one.x0, other.x0),
        min(one.y0, other.y0),
        max(one.x1, other.x1),
        max(one.y1, other.y1),
    )
