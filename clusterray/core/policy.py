"""Who gets which band, and how much of it; pure functions over the farm's entities.

Jobs go by priority and then by age; a node for which the first job has nothing gets the next
one's. Within a frame the topmost waiting band is cut into one large piece for each node that waits
for work (``core.sharing``). What was believed wrongly is mended while the bands run
(``core.cutting``).

A frame is begun by the strongest class of POV-Ray that has a node with a place: strong classes
choose first. The others find the frames of other jobs, so that nobody waits while there is work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from clusterray.core.entities import Attempt, Band, Frame, Job, Node
from clusterray.core.likeness import may_share
from clusterray.core.model import PovrayClass
from clusterray.core.sharing import Leaf, Shares, share_out
from clusterray.core.states import AttemptState


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

    Those of the class with most threads come first; among equals those with nothing at all, before
    those with a band that ends soon, and then who has waited longest.
    """
    ordered = sorted(hungry, key=lambda node: bool(node.rendering))
    if all(node.povray_class == ordered[0].povray_class for node in ordered):
        return ordered
    threads = class_threads(nodes)
    return sorted(ordered, key=lambda node: -threads[node.povray_class])


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


def choose_detached(node: Node, detached: Iterable[Attempt]) -> Attempt | None:
    """Give one of the ``detached`` whose band a node with nothing else to do should take over.

    Of the first job in the queue that has one, the one that is away longest. One that was rendered
    already is left its time: its tile may lie whole at the head. So is one whose band the node has
    failed: it is better off with the one that is away.
    """
    fitting = (attempt for attempt in detached if _may_take_over(node, attempt))
    return min(fitting, key=lambda attempt: attempt.band.frame.job.rank, default=None)


def _may_take_over(node: Node, attempt: Attempt) -> bool:
    band, job = attempt.band, attempt.band.frame.job
    return (
        attempt.state is AttemptState.RENDERING
        and job.takes_leases
        and not node.kept_off_job(job.id)
        and may_render(node, band.frame)
        and not band.reluctance(node.id)
    )


def shares_of(node: Node, band: Band, hungry: Iterable[Node], tries: int) -> Shares:
    """Say how a waiting band is cut before ``node``, one of the ``hungry``, takes its part of it.

    All of them who may take it as well share it. It stays whole if the job's owner wished for a
    number of bands; a verify band is as large as the one it is compared with, and photons are shot
    for all rows at once. Light is gathered anew at each edge, so its bands are as wide as can be.
    """
    frame = band.frame
    if frame.job.request.wish_bands is not None or band.stage in ("verify", "photons"):
        return Leaf(band.rect, node)
    able = (other for other in hungry if other is not node and may_render(other, frame))
    most = band.reluctance(node.id)
    others = [
        other
        for other in able
        if band.reluctance(other.id) <= most and may_still_take(other, band, tries)
    ]
    return share_out(frame, band.rect, [node, *others], columns=band.stage == "final")


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
