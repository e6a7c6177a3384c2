"""Whether a band ends so soon that its node takes the next one beside it, and has memory for two.

POV-Ray uses no core as it starts, one as it parses, and fewer and fewer at its end; then the tile
is packed. Meanwhile the next band's POV-Ray is to start. Pure: no clock, process or message in it;
the render thread that has an attempt owns its Outlook.
"""

from __future__ import annotations

import math
from collections import deque

START_S = 0.4
"""No POV-Ray renders sooner: it sleeps for 0.3 s, and the launcher starts before it."""
MOST_FETCH_S = 2.0
"""So much of what fetching took counts as part of a start: the next band may be of a scene that is
here, but a node that takes it early only shares its cores for longer."""
RECENT_S = 3.0
LEAST_STEPS = 4
"""The recent pace is that of so long a time, and of so many moments at which blocks were done."""
LEAST_SHARE = 0.5
"""What a band shows of itself before its pace is believed: its first rows may be sky."""
LOOK_S = 0.04
"""No attempt is looked at more often."""
KEEN_S = 1.0
"""An attempt that may end soon in so short a time is looked at often."""
SPARE_SHARE = 16
"""Beside a second POV-Ray this part of the node's memory stays free."""
SCARCE_SHARE = 32
"""With less than this part free the younger of two is given up."""


class Outlook:
    """How one attempt gets on. Times are seconds of one clock, finished pixels are of its band."""

    def __init__(self) -> None:
        self.largest_bytes = 0
        """The largest resident size that a POV-Ray of it had."""
        self._threads = 1
        self._fetch_s = 0.0
        self._began_at = 0.0
        self._start_s = START_S
        self._steps: deque[tuple[float, int]] = deque()
        self._look_at = 0.0

    def fetched(self, seconds: float) -> None:
        """Its scene is there, which took so long."""
        self._fetch_s = min(seconds, MOST_FETCH_S)

    def begins(self, now: float, threads: int) -> None:
        """A POV-Ray of it with so many threads is started; another than before, if it goes on."""
        self._began_at, self._threads = now, threads
        self._steps.clear()

    def is_due(self, now: float) -> bool:
        """Tell whether it is time to look at it again; if so, this is the look."""
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_S
        return True

    def note(self, now: float, finished: int) -> None:
        """So many pixels are finished; to be called as soon as POV-Ray has parsed, and from then on
        often.
        """
        steps = self._steps
        if not steps and self._threads > 1:
            # A lone thread loses what a parse beside it takes: there only the sleep is hidden.
            self._start_s = max(START_S, now - self._began_at)
        if not steps or finished != steps[-1][1]:
            steps.append((now, finished))
        while len(steps) > LEAST_STEPS and steps[1][0] < now - RECENT_S:
            steps.popleft()

    def ends_soon(self, now: float, wanted: int) -> bool:
        """Tell whether all cores are busy with ``wanted`` pixels for no longer than a start takes.

        ``wanted`` are those of the band without the blocks that other threads have in hand when the
        first one finds none left.
        """
        return self._left_s(now, wanted) <= self._start_s + self._fetch_s

    def is_keen(self, now: float, wanted: int) -> bool:
        """Tell whether it may end soon before long, so that it should be looked at often."""
        if not self._steps:
            return False
        if len(self._steps) == 1:
            return now - self._steps[0][0] < KEEN_S
        return self._left_s(now, wanted) <= self._start_s + self._fetch_s + KEEN_S

    def _left_s(self, now: float, wanted: int) -> float:
        """Give the seconds to the last of these, at its recent pace; for ever while that is
        unknown.

        A pretrace finishes no pixels.
        """
        if not self._steps:
            return math.inf
        (since, before), (_at, finished) = self._steps[0], self._steps[-1]
        if finished >= wanted:
            return 0.0
        if finished == before or finished < LEAST_SHARE * wanted or now <= since:
            return math.inf
        return (wanted - finished) * (now - since) / (finished - before)


def until_first_idle(pixels: int, block: int, threads: int) -> int:
    """Give the pixels of a band that are finished when the first thread finds no block left.

    All others have one of ``block`` rows and columns in hand then, and a dear block may last for
    longer than all else.
    """
    return max(0, pixels - (threads - 1) * block * block)


def has_room(largest_bytes: int, left_bytes: int, all_bytes: int) -> bool:
    """Tell whether a second POV-Ray, as large as the first was, fits in the memory that is left.

    With a quarter more for what the first had not shown yet, and a part of all kept free. Where the
    size of the first is not known it does not.
    """
    if largest_bytes <= 0:
        return False
    return left_bytes >= largest_bytes + largest_bytes // 4 + all_bytes // SPARE_SHARE


def is_scarce(left_bytes: int, all_bytes: int) -> bool:
    """Tell whether so little memory is left that one of two POV-Rays must go."""
    return left_bytes < all_bytes // SCARCE_SHARE
