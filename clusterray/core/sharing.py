"""How the work that waits is shared out among several nodes at once; pure.

The rectangle is halved again and again, and with it the nodes, so that each half has as much of the
believed work as its nodes have of their speed. Every cut goes right through (a guillotine cut), so
the farm makes it by cutting bands.

A band is tall and narrow rather than a full-width strip where there are few rows of blocks: it can
only be cut along a row of blocks that has not begun, so a row has to be little of it (measured by
scripts/bench/balance). Where rows are plenty bands keep the full width, for their tiles are joined
by copying.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from clusterray.core.bands import cut_columns, cut_rows, row_step
from clusterray.core.blocks import BlockGrid
from clusterray.core.entities import Frame, Node
from clusterray.core.model import Rect

LEAST_BAND_S = 3.0
"""Seconds that a band should take once the frame's pace is known: each start of POV-Ray costs 0.4
seconds of sleep (core.pace), so smaller pieces would wait more than they render."""
ROW_BLOCKS_PER_THREAD = 2
"""A single row of blocks is shared out only if each thread has as many."""
ROWS_OF_BAND = 32
"""A band with as many rows of blocks can be cut well enough."""
NARROWEST = 0.1
"""No band is made narrower than this part of its height for the sake of its rows."""
OTHER_WAY = 0.15
"""A cut the other way than is wanted has to be so much nearer to the nodes' speeds."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """What one node gets."""

    rect: Rect
    node: Node


@dataclass(frozen=True, slots=True)
class Split:
    """A cut of ``rect``: into the upper or left part, and the rest."""

    rect: Rect
    keep: Shares
    rest: Shares


Shares = Leaf | Split


def share_out(frame: Frame, rect: Rect, nodes: Sequence[Node], *, columns: bool = True) -> Shares:
    """Cut ``rect`` for ``nodes``, at least one; those for whom it is too little get nothing.

    ``columns`` False: only along rows.
    """
    first = nodes[0]
    wanting = sorted(nodes, key=lambda node: -node.speed)
    while len(wanting) > 1 and _is_too_little(frame, rect, wanting):
        # The one that was to be served is: it may be all that is known to be in need.
        wanting.remove(next(node for node in reversed(wanting) if node is not first))
    return _halve(frame, rect, wanting, first, columns=columns)


def _is_too_little(frame: Frame, rect: Rect, nodes: Sequence[Node]) -> bool:
    grid = BlockGrid(rect, row_step(frame.job.request.picture))
    # A block is one thread's work; and a single row of them has to be worth being joined.
    least = 1 if grid.rows > 1 else ROW_BLOCKS_PER_THREAD
    if grid.count < least * sum(node.threads for node in nodes):
        return True
    speed = sum(node.speed for node in nodes)
    return frame.work(rect) < frame.rate * speed * LEAST_BAND_S


def _halve(
    frame: Frame, rect: Rect, nodes: Sequence[Node], first: Node, *, columns: bool
) -> Shares:
    best = _best_split(frame, rect, nodes, columns=columns) if len(nodes) > 1 else None
    if best is None:
        # What cannot be cut is one node's; of them all only the first must have something.
        return Leaf(rect, next((node for node in nodes if node is first), nodes[0]))
    keep, rest, upper, lower = best
    return Split(
        rect,
        _halve(frame, keep, upper, first, columns=columns),
        _halve(frame, rest, lower, first, columns=columns),
    )


def _best_split(
    frame: Frame, rect: Rect, nodes: Sequence[Node], *, columns: bool
) -> tuple[Rect, Rect, list[Node], list[Node]] | None:
    """Give both parts and who gets them; None if the rectangle cannot be cut."""
    step = row_step(frame.job.request.picture)
    total, power = frame.work(rect), sum(node.speed for node in nodes)
    narrow = columns and _wants_columns(rect, step, len(nodes))
    found: list[tuple[float, Rect, Rect, list[Node], list[Node]]] = []
    for by_columns in (True, False) if columns else (False,):
        parts = _by_columns(rect, step) if by_columns else _by_rows(rect, step)
        off_course = 0.0 if by_columns is narrow else OTHER_WAY
        for upper, lower in _groups(nodes):
            share = sum(node.speed for node in upper) / power
            near = _nearest(frame, [keep for keep, _ in parts], total * share)
            for at in near:
                keep, rest = parts[at]
                error = abs(frame.work(keep) / total - share) / min(share, 1 - share)
                found.append((error + off_course, keep, rest, upper, lower))
    if not found:
        return None
    return min(found, key=lambda each: each[0])[1:]


def _wants_columns(rect: Rect, step: int, nodes: int) -> bool:
    grid = BlockGrid(rect, step)
    return grid.rows < ROWS_OF_BAND * nodes and grid.columns > max(1.0, NARROWEST * grid.rows)


def _by_rows(rect: Rect, step: int) -> list[tuple[Rect, Rect]]:
    return [rect.split_at_row(row) for row in cut_rows(rect, step)]


def _by_columns(rect: Rect, step: int) -> list[tuple[Rect, Rect]]:
    return [rect.split_at_column(column) for column in cut_columns(rect, step)]


def _nearest(frame: Frame, keeps: Sequence[Rect], wanted: float) -> range:
    """Give which of ever larger ``keeps`` have about the work that is wanted: up to two."""
    at = bisect_left(keeps, wanted, key=frame.work)
    return range(max(0, at - 1), min(len(keeps), at + 1))


def _groups(nodes: Sequence[Node]) -> list[tuple[list[Node], list[Node]]]:
    """Give ways to halve nodes, the strongest first: evenly mixed, or the strong and the weak."""
    one: list[Node] = []
    other: list[Node] = []
    speeds = [0.0, 0.0]
    for node in nodes:
        lighter = speeds[0] > speeds[1]
        (other if lighter else one).append(node)
        speeds[lighter] += node.speed
    sums = list(accumulate(node.speed for node in nodes))
    half = min(max(1, bisect_left(sums, sums[-1] * 0.4) + 1), len(nodes) - 1)
    strong, weak = list(nodes[:half]), list(nodes[half:])
    return [(one, other), (other, one), (strong, weak), (weak, strong)]
