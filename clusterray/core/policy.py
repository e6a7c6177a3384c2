"""Who gets which band, and how much of it; pure functions over the farm's entities.

Jobs go by priority and then by age; a node for which the first job has nothing gets the next
one's. Within a frame the topmost waiting band is cut so that the asking node takes one large piece,
its share of the work that waits by its speed among those that wait for some. What was believed
wrongly is mended while the bands run (``core.cutting``).

A frame is begun by the strongest class of POV-Ray that has a node with a place: strong classes
choose first. The others find the frames of other jobs, so that nobody waits while there is work.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable

from clusterray.core.bands import cut_columns, cut_rows, row_step
from clusterray.core.entities import Attempt, Band, Frame, Job, Node
from clusterray.core.likeness import may_share
from clusterray.core.model import PovrayClass, Rect
from clusterray.core.states import AttemptState

LEAST_BAND_S = 3.0
"""Seconds that a band should take once the frame's pace is known: each start of POV-Ray costs 0.7
seconds of sleep (measured), so smaller pieces would wait more than they render."""
LEAST_OF_ROW = 0.75
"""A share of less than so much of a row of blocks is a part of it: more is taken as the row."""
BLOCKS_PER_THREAD = 4
"""A piece of a row has as many blocks for each of its node's threads: a block is one thread's work,
so that fewer would leave threads idle at its end."""


def may_render(node: Node, frame: Frame) -> bool:
    """Tell whether the node's POV-Ray reads the frame's light, and may share it or be its first."""
    if not reads_light(node.povray_class, frame):
        return False
    first = frame.povray_class
    return first is None or may_share(frame.job.request.mix, first, node.povray_class)


def reads_light(povray: PovrayClass, frame: Frame) -> bool:
    """Tell whether this POV-Ray can load all the light that the frame has."""
    readers = (light.readers for light in frame.lights)
    return all(each is None or each == povray.program for each in readers)


def class_threads(nodes: Iterable[Node]) -> dict[PovrayClass, int]:
    """Give the power of each class: the threads of its nodes that take bands."""
    threads: dict[PovrayClass, int] = {}
    for node in nodes:
        if node.usable:
            threads[node.povray_class] = threads.get(node.povray_class, 0) + node.threads
    return threads


def in_turn(hungry: Collection[Node], nodes: Iterable[Node]) -> list[Node]:
    """Give the nodes with a place in the order in which they choose their bands.

    Those of the class with most threads come first; among equals who has waited longest.
    """
    if len(hungry) < 2:
        return list(hungry)
    threads = class_threads(nodes)
    return sorted(hungry, key=lambda node: -threads[node.povray_class])


def choose_band(
    node: Node, jobs: Iterable[Job], nodes: Collection[Node], tries: int
) -> Band | None:
    """Give the waiting band that ``node`` should take from ``jobs``, which come in queue order.

    A band that failed on the node ``tries`` times is not for it.
    """
    for job in jobs:
        if not job.takes_leases or node.kept_off_job(job.id):
            continue
        for frame in job.frames:
            if not may_render(node, frame):
                continue
            for band in frame.waiting.values():
                if _has_its_turn(node, band, nodes, tries):
                    return band
    return None


def has_takers(frame: Frame, nodes: Iterable[Node], tries: int) -> bool:
    """Tell whether a node is there, with a place or not, that may take a waiting band of it."""
    return any(
        node.usable
        and may_render(node, frame)
        and any(may_still_take(node, band, tries) for band in frame.waiting.values())
        for node in nodes
    )


def choose_stranded(
    node: Node, jobs: Iterable[Job], nodes: Collection[Node], tries: int
) -> Frame | None:
    """Give a frame for ``node`` to begin anew, because nobody who is there can go on with it.

    One that has light which ``node`` cannot read, and no tile that would be lost.
    """
    for job in jobs:
        if not job.takes_leases or node.kept_off_job(job.id):
            continue
        for frame in job.frames:
            if (
                frame.waiting
                and not frame.has_tiles
                and not reads_light(node.povray_class, frame)
                and not has_takers(frame, nodes, tries)
            ):
                return frame
    return None


def choose_detached(node: Node, jobs: Iterable[Job]) -> Attempt | None:
    """Give a detached attempt whose band a node with nothing else to do should take over.

    One that was rendered already is left its time: its tile may lie whole at the head. So is one
    whose band the node has failed: it is better off with the one that is away.
    """
    for job in jobs:
        if not job.takes_leases or node.kept_off_job(job.id):
            continue
        for frame in job.frames:
            if not may_render(node, frame):
                continue
            for band in frame.counting_bands:
                if band.reluctance(node.id):
                    continue
                for attempt in band.live_attempts:
                    away = attempt.detached_until is not None
                    if away and attempt.state is AttemptState.RENDERING:
                        return attempt
    return None


class Shares:
    """How the work that waits is shared out among the nodes that have a place now.

    For one round of handing out: it is told of each node that was served, and counts on.
    """

    def __init__(self, hungry: Iterable[Node]) -> None:
        self._hungry = list(hungry)
        self._speeds: dict[int, float] = {}

    def served(self, node: Node) -> None:
        """The node has got something: it wants no other share."""
        self._hungry.remove(node)
        for frame in self._speeds:
            self._speeds[frame] -= node.speed

    def keeps(self, node: Node, band: Band) -> list[Rect]:
        """Give what ``band`` is to be cut down to, cut by cut, before ``node`` takes it.

        Nothing: it takes all. A job whose owner wished for a number of bands was cut when it came
        and is not cut again; a verify band is as large as the one it is compared with; photons are
        shot for all rows at once.
        """
        frame = band.frame
        request = frame.job.request
        if request.wish_bands is not None or band.stage in ("verify", "photons"):
            return []
        waits = sum(frame.work(waiting.rect) for waiting in frame.waiting.values())
        fair = waits * node.speed / max(self._speed(frame), node.speed)
        wanted = max(fair, frame.rate * node.speed * LEAST_BAND_S)
        # Each piece of a light pass gathers anew at its edges: none is less than a row of blocks.
        columns = band.stage == "final"
        return first_piece(frame, band.rect, wanted, BLOCKS_PER_THREAD * node.threads * columns)

    def _speed(self, frame: Frame) -> float:
        """Give the speed of all nodes with a place that may render the frame."""
        key = id(frame)
        if key not in self._speeds:
            able = (node for node in self._hungry if may_render(node, frame))
            self._speeds[key] = sum(node.speed for node in able)
        return self._speeds[key]


def first_piece(frame: Frame, rect: Rect, wanted: float, blocks: int) -> list[Rect]:
    """Give the cuts that leave about ``wanted`` of the work of ``rect``, rows as far as they go.

    Where that is much less than one row of blocks, the row is cut at a column, but not to less than
    ``blocks``; 0: it is not.
    """
    step = row_step(frame.job.request.picture)
    rows = [Rect(rect.x0, rect.y0, rect.x1, row) for row in cut_rows(rect, step)]
    keep = _nearest(frame, [*rows, rect], wanted)
    cuts = [] if keep == rect else [keep]
    if not blocks or keep != [*rows, rect][0] or wanted > frame.work(keep) * LEAST_OF_ROW:
        return cuts
    columns = [Rect(rect.x0, rect.y0, x, keep.y1) for x in cut_columns(rect, step)]
    part = _nearest(frame, [*columns[blocks - 1 :], keep], wanted)
    return cuts if part == keep else [*cuts, part]


def _nearest(frame: Frame, keeps: list[Rect], wanted: float) -> Rect:
    """Give the one of ever larger ``keeps`` whose work is nearest to what is wanted."""
    at = bisect_left(keeps, wanted, key=frame.work)
    near = keeps[max(0, at - 1) : at + 1]
    return min(near, key=lambda keep: abs(frame.work(keep) - wanted))


def may_still_take(node: Node, band: Band, tries: int) -> bool:
    """Tell whether the node is not kept off the band's job and has not failed it too often."""
    kept_off = node.kept_off_job(band.frame.job.id)
    return not kept_off and band.failed_on.count(node.id) < tries


def _has_its_turn(node: Node, band: Band, nodes: Collection[Node], tries: int) -> bool:
    """Tell whether no other node that could take the band would do better."""
    reluctance = band.reluctance(node.id)
    if reluctance == 0:
        return True
    return may_still_take(node, band, tries) and not any(
        band.reluctance(other.id) < reluctance
        and other.usable
        and may_render(other, band.frame)
        and may_still_take(other, band, tries)
        for other in nodes
    )
