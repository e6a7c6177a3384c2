"""Where a band that is being rendered ends: one thread agrees to a cut, another keeps to it.

"main" brings what the head asks for, a render thread says what has begun and stops there. What was
agreed is never taken back. Knows nothing of messages or POV-Ray.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from clusterray.core.bands import rest_of, row_step
from clusterray.core.blocks import BlockGrid
from clusterray.core.model import Rect
from clusterray.povray.spec import RenderSpec


def _nothing() -> int:
    """Count the blocks begun while nothing renders."""
    return 0


class CutLine:
    """The rectangle that is left of a band; ``whole`` at first. ``closed``: it stays that."""

    def __init__(self, whole: Rect, spec: RenderSpec, *, closed: bool = False) -> None:
        self._block = spec.block_size
        self._step = math.lcm(spec.block_size, row_step(spec.picture()))
        # Guards all below: what is agreed must fit what is closed.
        self._lock = threading.Lock()
        self._rect = whole
        self._closed = closed
        self._begun: Callable[[], int] = _nothing
        self.parses = True
        """Whether the tile of what a cut leaves takes a parse of the scene, as far as is known: set
        by the thread that renders."""
        self.by_blocks = False
        """Whether no more is wanted of POV-Ray than its blocks, cut or not: set by that thread."""

    @property
    def rect(self) -> Rect:
        """What is left of the band."""
        with self._lock:
            return self._rect

    def begins(self, begun: Callable[[], int]) -> None:
        """POV-Ray renders from now on; ``begun`` counts the blocks of the band, in POV-Ray's order,
        that it has begun.
        """
        with self._lock:
            self._begun = begun

    def close(self) -> Rect:
        """Let it be as it is from now on; gives what is left of the band."""
        with self._lock:
            self._closed = True
            return self._rect

    def cut(self, keep: Rect, agreed: Callable[[Rect], object]) -> None:
        """Agree to keep only ``keep``, or more if more is begun; all if it is too late or no cut.

        ``agreed`` is called with what is kept before anybody can act upon it.
        """
        with self._lock:
            if not self._closed and rest_of(self._rect, keep) is not None:
                self._rect = self._at_least(keep)
            agreed(self._rect)

    def _at_least(self, keep: Rect) -> Rect:
        rect, block = self._rect, self._block
        columns = BlockGrid(rect, block).columns
        begun = self._begun()
        if keep.x1 == rect.x1:
            rows = -(-begun // columns)
            return Rect(rect.x0, rect.y0, rect.x1, self._line(rect.y0, rows, keep.y1, rect.y1))
        if rect.height > block:
            # Its blocks are not rendered in such an order that a column could be the end.
            return rect
        return Rect(rect.x0, rect.y0, self._line(rect.x0, begun, keep.x1, rect.x1), rect.y1)

    def _line(self, start: int, blocks: int, asked: int, end: int) -> int:
        """Give the row or column of the cut: as asked, or the next one where what is begun ends."""
        begun = blocks * self._block
        if start + begun <= asked:
            return asked
        return min(end, start + -(-begun // self._step) * self._step)
