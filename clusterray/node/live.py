"""Finished blocks of a band that renders, made small for people to look at.

A render thread owns a LiveBlocks and calls ``look`` as POV-Ray goes on. It reads what is new in
the state file, draws a few of its pixels, and gives them away at most once a second, at a cost that
no render feels. Nothing here ever fails an attempt. Knows nothing of leases.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from clusterray.core.model import Rect
from clusterray.images.glimpse import pack_glimpse
from clusterray.povray.live import SmallCanvas
from clusterray.povray.state_file import NoStateFile, StateReader

log = logging.getLogger(__name__)

EVERY_S, MOST_S = 1.0, 1.8
"""New blocks are given away no more often than the one, and no more seldom than the other."""
SHARE = 0.005
"""Between the two so that it takes this share of a core."""
DRAW_S = 0.006
"""For so many CPU seconds blocks are drawn at a time; the others wait for the next time."""

Give = Callable[[Rect, bytes], None]
"""Takes pixels of the frame, and what there is to see of them."""


class LiveBlocks:
    """What is to be seen of the band whose blocks come into ``state``; see ``SmallCanvas``."""

    def __init__(
        self,
        state: Path,
        canvas: SmallCanvas,
        most_bytes: int,
        give: Give,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = StateReader(state)
        self._canvas = canvas
        self._most_bytes = most_bytes
        self._give = give
        self._clock = clock
        self._not_before_at = clock() + EVERY_S / 2

    def look(self) -> None:
        """Give away what is new, if its time has come."""
        now = self._clock()
        if now < self._not_before_at:
            return
        began_s = time.thread_time()
        try:
            for block in self._reader.new_blocks():
                self._canvas.draw(block)
                if time.thread_time() - began_s >= DRAW_S:
                    break
            self._show()
        except (OSError, NoStateFile) as error:
            log.debug("no blocks to be seen: %s", error)
        spent_s = time.thread_time() - began_s
        self._not_before_at = now + min(MOST_S, max(EVERY_S, spent_s / SHARE))

    def _show(self) -> None:
        drawn = self._canvas.take()
        if drawn is None:
            return
        rect, size, rgba = drawn
        self._give(rect, pack_glimpse(Image.frombytes("RGBA", size, rgba), self._most_bytes))
