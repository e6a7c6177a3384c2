"""How fast nodes get on: learned from what they say while they render; pure.

Work is counted in mean pixels of the frame (``core.costs``). A node's speed is its threads times
what one of them does beside another node's: 1 until something is known. How many mean pixels of a
frame a thread of speed 1 gets through in a second is learned from all who render it. What an
attempt did of late says most about how it goes on: machines slow down, and beliefs about costs err.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heappop, heappush

from clusterray.core.blocks import BlockGrid
from clusterray.core.costs import CostMap
from clusterray.core.model import Rect

START_S = 0.4
"""Seconds that each start of POV-Ray sleeps before its first pixel, besides its parse (measured:
0.33); what it sleeps after its picture is written nobody waits for (node.renderer)."""
PRIOR_S = 3.0
"""What is believed of an attempt's pace weighs as much as that many seconds of seeing it, and less
the longer it has been seen."""
MEMORY_S = 10.0
"""What an attempt did weighs less with time, by a factor of e in this."""
SILENT_S = 2.0
"""For so long a node that renders may say nothing and be believed to get on."""
CANARY_CPU_S = 0.1
"""What the canary takes a thread of the usual speed: 0.094 s on the machine of docs/performance.md.
What counts is how nodes compare, so any number would do as well."""
TAIL_BLOCKS = 6
"""So many blocks of each thread are looked at one by one."""
LEAST_LESSON_S = 2.0
"""Seconds of rendering from which a node's speed is learned."""
LESSON_S = 60.0
"""An attempt that took as long counts as much as all that is known of its node."""
MOST_RATIO = 16.0
"""No thread is believed to be as many times faster or slower than the usual one."""


@dataclass(slots=True)
class Pace:
    """How an attempt gets on. ``done`` of its work are done as of ``at``, None before it renders.

    ``begun`` were done before it began, by an earlier POV-Ray. ``work`` and ``seconds`` are what it
    did of late and in which time; ``all_s`` is all the time in which it rendered.
    """

    at: float | None = None
    done: float = 0.0
    begun: float = 0.0
    work: float = 0.0
    seconds: float = 0.0
    all_s: float = 0.0

    def hear(self, done: float, now: float) -> tuple[float, float]:
        """Take what is done by ``now``; give the work and the seconds since the last word."""
        if self.at is None:
            self.at, self.done, self.begun = now, done, done
            return 0.0, 0.0
        work, seconds = max(0.0, done - self.done), now - self.at
        fades = math.exp(-seconds / MEMORY_S)
        self.work, self.seconds = self.work * fades + work, self.seconds * fades + seconds
        self.at, self.done, self.all_s = now, max(done, self.done), self.all_s + seconds
        return work, seconds

    def rate(self, believed: float, now: float) -> float:
        """Give the work a second that is to be expected, where ``believed`` was before.

        Nothing that is heard for longer than usual is no progress.
        """
        hung_s = 0.0 if self.at is None else max(0.0, now - self.at - SILENT_S)
        prior_s = PRIOR_S / (1 + self.all_s / PRIOR_S)
        return (self.work + prior_s * believed) / (self.seconds + hung_s + prior_s)

    def unseen(self, rate: float, now: float) -> float:
        """Give the work that is believed to be done since the last word."""
        return 0.0 if self.at is None else rate * min(now - self.at, SILENT_S)


def work_of_first(costs: CostMap | None, rect: Rect, block: int, pixels: int) -> float:
    """Give the work in the first ``pixels`` of ``rect``, in the order of POV-Ray's blocks."""
    rows, more = divmod(min(pixels, rect.area), rect.width * block)
    bottom = min(rect.y0 + rows * block, rect.y1)
    work = work_of(costs, Rect(rect.x0, rect.y0, rect.x1, bottom)) if rows else 0.0
    height = min(block, rect.y1 - bottom)
    columns = more // height if height else 0
    if columns:
        work += work_of(costs, Rect(rect.x0, bottom, rect.x0 + columns, bottom + height))
    return work


def work_of(costs: CostMap | None, rect: Rect) -> float:
    """Give the work in ``rect``; where nothing is known every pixel is a mean one."""
    return float(rect.area) if costs is None else costs.cost(rect)


def seconds_for(
    costs: CostMap | None, rect: Rect, block: int, left: float, threads: int, rate: float
) -> float:
    """Give how long ``threads`` take for the last ``left`` of the work of ``rect``.

    Together they do ``rate`` of it a second. A block is one thread's work. So the last ones are
    dealt out one by one, each to the thread that is free first; before them, none is idle.
    """
    tail: list[float] = []
    dealt = 0.0
    grid = BlockGrid(rect, block)
    for serial in reversed(range(max(0, grid.count - TAIL_BLOCKS * threads), grid.count)):
        work = work_of(costs, grid.block(serial))
        if dealt + work > left:
            break
        tail.append(work)
        dealt += work
    thread_rate = rate / threads
    free_at = [(left - dealt) / rate] * threads
    for work in reversed(tail):
        heappush(free_at, heappop(free_at) + work / thread_rate)
    return max(free_at)


def guessed(canary_cpu_s: float) -> float:
    """Give what a node's threads are worth that took so long for the canary; 0: nobody knows."""
    ratio = CANARY_CPU_S / canary_cpu_s if canary_cpu_s > 0 else 1.0
    return min(max(ratio, 1 / MOST_RATIO), MOST_RATIO)


def learned(thread_speed: float, ratio: float, seconds: float) -> float:
    """Give what a node's threads are worth, after one attempt of ``seconds`` in which they did
    ``ratio`` times what was believed.
    """
    weight = seconds / (seconds + LESSON_S)
    factor: float = min(max(ratio, 1 / MOST_RATIO), MOST_RATIO) ** weight
    return min(max(thread_speed * factor, 1 / MOST_RATIO), MOST_RATIO)
