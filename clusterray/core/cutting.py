"""Where to cut a band that is being rendered, so that two nodes end together; pure.

Its owner goes on to the cut, is stopped there, and POV-Ray is started once more to make its tile of
the finished blocks (POVRAY.md 11); the other starts on the rest. Both starts are charged, that of
the tile with a parse or without, and a cut that costs more than it saves is left. A cut falls along
a row of blocks; down a column where only one row of blocks is left, for a block is one thread's
work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clusterray.core.bands import cut_columns, cut_rows, rest_of, row_step
from clusterray.core.entities import Attempt, Frame, Node
from clusterray.core.model import Rect
from clusterray.core.pace import seconds_for

LEAST_GAIN_S = 0.5
"""A band must end so much sooner by a cut, or it is left whole."""
LEAST_GAIN = 0.05
"""And by so much of what it would take still: beliefs are no truer than that."""
TOO_SLOW = 1.5
"""A band is rendered by a second node too where that one, from the start, would need so much less
than its owner for what is left."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What is left of a band, and how many seconds sooner all of it is done."""

    keep: Rect
    gain_s: float


@dataclass(frozen=True, slots=True)
class Helper:
    """A node without work: its work a second on the frame, its threads, seconds until it begins."""

    rate: float
    threads: int
    start_s: float

    def ends_in_s(self, frame: Frame, rect: Rect) -> float:
        """Give when it would be done with ``rect``."""
        return self.start_s + _seconds(frame, rect, frame.work(rect), self.threads, self.rate)


def helper(node: Node, frame: Frame, now: float) -> Helper:
    """Give what a node could do for a frame of whose pace something is known.

    One that still renders begins when that is done, or else once POV-Ray has started.
    """
    busy_s = max((_ends_soon_in_s(each, node, now) for each in node.rendering), default=0.0)
    return Helper(frame.rate * node.speed, node.threads, max(frame.start_s, busy_s))


def _seconds(frame: Frame, rect: Rect, left: float, threads: int, rate: float) -> float:
    step = row_step(frame.job.request.picture)
    return seconds_for(frame.costs, rect, step, left, threads, rate)


def rate_of(attempt: Attempt, node: Node, now: float) -> float:
    """Give the work a second of an attempt; more than 0 if its frame's pace is known."""
    return attempt.pace.rate(attempt.band.frame.rate * node.speed, now)


def work_left(attempt: Attempt, rate: float, now: float) -> float:
    """Give the work that is left of an attempt's band, as far as is known."""
    pace = attempt.pace
    left = attempt.band.frame.work(attempt.band.rect) - pace.done - pace.unseen(rate, now)
    return max(left, 0.0)


def starts_in_s(attempt: Attempt, now: float) -> float:
    """Give the seconds until an attempt renders, 0 once it does."""
    if attempt.pace.at is not None:
        return 0.0
    return max(0.0, attempt.leased_at + attempt.band.frame.start_s - now)


def seconds_left(attempt: Attempt, node: Node, now: float) -> float:
    """Give when an attempt is believed to end, in seconds from ``now``, not looking at blocks."""
    rate = rate_of(attempt, node, now)
    return starts_in_s(attempt, now) + work_left(attempt, rate, now) / rate


def _ends_soon_in_s(attempt: Attempt, node: Node, now: float) -> float:
    """Give the same of one that ends soon; where nothing is known of its pace, what its node said:
    no more than a start.
    """
    known = attempt.band.stage == "final" and attempt.band.frame.rate
    return seconds_left(attempt, node, now) if known else attempt.band.frame.start_s


def best_cut(attempt: Attempt, owner: Node, other: Helper, now: float) -> Cut | None:
    """Give the cut after which an attempt's band is done soonest; None: leave it whole.

    ``other`` is who takes the rest. Something must be known of the frame's pace.
    """
    frame, rect = attempt.band.frame, attempt.band.rect
    rate = rate_of(attempt, owner, now)
    left, starts_s = work_left(attempt, rate, now), starts_in_s(attempt, now)
    whole_s = starts_s + _seconds(frame, rect, left, owner.threads, rate)
    least_s = max(LEAST_GAIN_S, LEAST_GAIN * whole_s)
    if whole_s <= other.start_s + least_s:
        return None
    keeps = keeps_of(attempt, owner.threads)
    if not keeps:
        return None
    total = frame.work(rect)
    # A POV-Ray that has not begun is told what to render in time; else it is started once more.
    again_s = 0.0 if attempt.phase in ("waiting", "fetching") else frame.tile_s

    def ends(keep: Rect) -> tuple[float, float]:
        """Give when the owner and the other end after this cut."""
        rest = rest_of(rect, keep)
        assert rest is not None
        own = max(left - (total - frame.work(keep)), 0.0)
        own_s = _seconds(frame, keep, own, owner.threads, rate)
        return starts_s + own_s + again_s, other.ends_in_s(frame, rest)

    keep = _crossing(keeps, ends)
    gain_s = whole_s - max(ends(keep))
    return Cut(keep, gain_s) if gain_s >= least_s else None


def _crossing(keeps: Sequence[Rect], ends: Callable[[Rect], tuple[float, float]]) -> Rect:
    """Give the cut with the earliest end: the larger it is, the later one ends and the sooner the
    other.
    """
    low, high = 0, len(keeps) - 1
    while low < high:
        middle = (low + high) // 2
        own, rest = ends(keeps[middle])
        if own < rest:
            low = middle + 1
        else:
            high = middle
    return min(keeps[max(0, low - 1) : low + 1], key=lambda keep: max(ends(keep)))


def keeps_of(attempt: Attempt, threads: int) -> Sequence[Rect]:
    """Give what may be left of an attempt's band: all that it has begun, and a block at least."""
    rect, picture = attempt.band.rect, attempt.band.frame.job.request.picture
    step = row_step(picture)
    rows, columns = cut_rows(rect, step), cut_columns(rect, step)
    begun = 0
    if attempt.pace.at is not None:
        begun = attempt.done // (step * step) + threads
    per_row = len(columns) + 1
    if rows:
        # What has begun ends in this row of blocks, counted from 1.
        first = max(1, -(-begun // per_row))
        return [Rect(rect.x0, rect.y0, rect.x1, row) for row in rows[first - 1 :]]
    return [Rect(rect.x0, rect.y0, column, rect.y1) for column in columns[max(1, begun) - 1 :]]
