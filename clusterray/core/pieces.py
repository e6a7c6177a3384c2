"""How long a band may last: what its node would take along if it died; pure.

A node that dies takes along all that it has rendered of its band, so a band of hours could cost
hours. Once the frame's pace is known a node takes no more of what waits than a piece, and one that
has taken much more before is asked to keep a piece. A node takes its next piece before it has done
with the last, so that a piece more costs hardly more than a parse on one core.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from clusterray.core.bands import cut_rows, row_step
from clusterray.core.blocks import BlockGrid
from clusterray.core.cutting import keeps_of, rate_of, work_left
from clusterray.core.entities import Attempt, Frame, Node
from clusterray.core.model import Rect

PIECE_S = 120.0
"""Seconds that a piece lasts, or longer where the scene takes long to parse."""
PARSES = 100
"""A piece has so many times the work of a parse (`scripts/bench/balance --mixes "8 long" --policies
farm`: a node that dies costs 5 %; in the short jobs of the mix 8, which have no pieces, 13 %)."""
PIECE_BLOCKS = 12
"""And so many blocks for each thread at least: at its end threads wait for the last of them."""
MORE = 1.5
"""What is left is taken whole if it is no more than so many pieces."""
MUCH_MORE = 5.0
"""A running band is shortened if more than so many pieces are left of it. To be cut costs it what
its threads have begun beyond the cut."""


def piece_work(frame: Frame, rect: Rect, node: Node, rate: float) -> float:
    """Give the work of a piece of ``rect`` for a node that does ``rate`` a second."""
    seconds = max(PIECE_S, PARSES * (frame.parse_s or 0.0) / node.threads)
    block = frame.work(rect) / BlockGrid(rect, row_step(frame.job.request.picture)).count
    return max(rate * seconds, PIECE_BLOCKS * node.threads * block)


def piece_of(frame: Frame, rect: Rect, node: Node) -> Rect | None:
    """Give what a node should take of ``rect``; None: all of it."""
    if not frame.rate:
        return None
    wanted = piece_work(frame, rect, node, frame.rate * node.speed)
    if frame.work(rect) <= MORE * wanted:
        return None
    rows = cut_rows(rect, row_step(frame.job.request.picture))
    return _with(frame, [Rect(rect.x0, rect.y0, rect.x1, row) for row in rows], wanted)


def piece_left(attempt: Attempt, owner: Node, now: float) -> Rect | None:
    """Give what an attempt's node should keep of its band; None: all of it.

    Something must be known of the frame's pace.
    """
    frame = attempt.band.frame
    rate = rate_of(attempt, owner, now)
    rect = attempt.band.rect
    piece, left = piece_work(frame, rect, owner, rate), work_left(attempt, rate, now)
    if left <= MUCH_MORE * piece:
        return None
    done = frame.work(rect) - left
    return _with(frame, keeps_of(attempt, owner.threads), done + piece)


def _with(frame: Frame, keeps: Sequence[Rect], wanted: float) -> Rect | None:
    """Give the smallest of ever larger ``keeps`` that has the work that is wanted."""
    at = bisect_left(keeps, wanted, key=frame.work)
    return keeps[at] if at < len(keeps) else None
