"""Who gets which band, and how much of it; pure functions over the farm's entities.

Jobs go by priority and then by age; a node for which the first job has nothing gets the next
one's. Within a frame the topmost waiting band is cut so that the asking node takes a share of
what is left by its threads (guided self-scheduling): large pieces first, small ones at the end,
so that unlike machines finish together.

A frame is begun by the strongest class of POV-Ray that has a node with a place: strong classes
choose first. The others find the frames of other jobs, so that nobody waits while there is work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from clusterray.core.bands import cut_row_for_share, row_step
from clusterray.core.entities import Attempt, Band, Frame, Job, Node
from clusterray.core.likeness import may_share
from clusterray.core.model import PovrayClass
from clusterray.core.states import AttemptState

SHARE_DIVISOR = 3
"""A node takes its fair share of the rows left, divided by this. Polychronopoulos & Kuck 1987
divide by 1, which trusts that all rows cost the same; a picture's rows do not."""
LEAST_BAND_S = 3.0
"""Seconds that a band should take once the frame's speed is known: each start of POV-Ray costs 0.7
seconds of sleep (measured), so smaller pieces would wait more than they render."""


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


def choose_band(node: Node, jobs: Iterable[Job], nodes: Collection[Node]) -> Band | None:
    """Give the waiting band that ``node`` should take from ``jobs``, which come in queue order."""
    for job in jobs:
        if not job.takes_leases:
            continue
        for frame in job.frames:
            if not may_render(node, frame):
                continue
            for band in frame.waiting.values():
                if not band.avoids(node.id) or not _others_left(band, nodes):
                    return band
    return None


def has_takers(frame: Frame, nodes: Iterable[Node]) -> bool:
    """Tell whether a node is there, with a place or not, that may render the frame."""
    return any(node.usable and may_render(node, frame) for node in nodes)


def choose_stranded(node: Node, jobs: Iterable[Job], nodes: Collection[Node]) -> Frame | None:
    """Give a frame for ``node`` to begin anew, because nobody who is there can go on with it.

    One that has light which ``node`` cannot read, and no tile that would be lost.
    """
    for job in jobs:
        if not job.takes_leases:
            continue
        for frame in job.frames:
            if (
                frame.waiting
                and not frame.has_tiles
                and not reads_light(node.povray_class, frame)
                and not has_takers(frame, nodes)
            ):
                return frame
    return None


def choose_detached(node: Node, jobs: Iterable[Job]) -> Attempt | None:
    """Give a detached attempt whose band a node with nothing else to do should take over.

    One that was rendered already is left its time: its tile may lie whole at the head.
    """
    for job in jobs:
        if not job.takes_leases:
            continue
        for frame in job.frames:
            if not may_render(node, frame):
                continue
            for band in frame.counting_bands:
                if band.stage == "verify" and band.avoids(node.id):
                    continue
                for attempt in band.live_attempts:
                    away = attempt.detached_until is not None
                    if away and attempt.state is AttemptState.RENDERING:
                        return attempt
    return None


def cut_row(node: Node, band: Band, nodes: Iterable[Node]) -> int | None:
    """Give the row at which to cut ``band`` before ``node`` takes its upper part; None: take all.

    A job whose owner wished for a number of bands was cut when it came and is not cut again; a
    verify band is as large as the one it is compared with; photons are shot for all rows at once.
    """
    frame = band.frame
    request = frame.job.request
    if request.wish_bands is not None or band.stage in ("verify", "photons"):
        return None
    threads = sum(other.threads for other in nodes if other.usable and may_render(other, frame))
    left = sum(waiting.rect.area for waiting in frame.waiting.values())
    fair = left * node.threads / max(threads, node.threads)
    least = frame.pixels_per_thread_s * node.threads * LEAST_BAND_S
    # Each piece of a light pass gathers anew at its edges, so there are few and large ones.
    divisor = SHARE_DIVISOR if band.stage == "final" else 1
    wanted = min(fair, max(fair / divisor, least))
    return cut_row_for_share(band.rect, row_step(request.picture), wanted / band.rect.area)


def _others_left(band: Band, nodes: Collection[Node]) -> bool:
    """Tell whether some node that this band does not avoid could take it."""
    return any(
        other.usable and not band.avoids(other.id) and may_render(other, band.frame)
        for other in nodes
    )
