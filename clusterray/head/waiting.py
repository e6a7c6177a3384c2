"""Why a job does not move, in words for the person who waits for it.

Reads the farm between two events, on the task-manager thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clusterray.core.blame import kept_off_words
from clusterray.core.entities import Attempt, Band, Frame, Job, Node
from clusterray.core.farm import Farm
from clusterray.core.policy import may_render, may_still_take
from clusterray.core.states import JobState

NO_NODE = "no node is connected; start clusterray-node on each render machine"
FORGIVE = "`clusterray nodes --forgive NAME` lets a node try again"


def why_waiting(job: Job, farm: Farm, live: Sequence[Attempt], now: float) -> str:
    """Say why a job does not move, "" if it does; ``live`` are its live attempts."""
    if job.state is JobState.PAUSED:
        still = f"; {len(live)} bands at work will end" if live else ""
        return f"paused by {job.paused_by}{still}"
    held_up = [attempt.reason for attempt in live if attempt.again_at is not None]
    if held_up:
        return f"{held_up[0]}; its node is asked for it again"
    if not job.has_waiting or live:
        return ""
    waiting = [band for frame in job.frames for band in frame.waiting.values()]
    there = [node for node in farm.nodes.values() if node.conn is not None and not node.draining]
    if not there:
        return NO_NODE
    fitting = [node for node in there if any(may_render(node, band.frame) for band in waiting)]
    if not fitting:
        wanted = {_wanted(band.frame) for band in waiting}
        return f"waits for a node with POV-Ray {', '.join(sorted(wanted))}"
    if not any(_able(node, waiting, farm) for node in fitting):
        reasons = [reason for node in fitting for reason in _why_not(node, job, waiting, now)]
        return f"no node that is there can take it: {'; '.join(reasons)}. {FORGIVE}"
    before = sum(other.rank < job.rank and other.takes_leases for other in farm.open_jobs)
    return f"{before} job{'s' if before > 1 else ''} before it" if before else ""


def _wanted(frame: Frame) -> str:
    """Name the POV-Ray that a frame wants: its class, or the one that can read its light."""
    if frame.povray_class is not None:
        return str(frame.povray_class)
    readers = [light.readers for light in frame.lights if light.readers is not None]
    return " ".join(readers[0]) if readers else "of any kind"


def _able(node: Node, waiting: Sequence[Band], farm: Farm) -> bool:
    return node.usable and any(
        may_render(node, band.frame) and may_still_take(node, band, farm.patience.band_tries)
        for band in waiting
    )


def _why_not(node: Node, job: Job, waiting: Sequence[Band], now: float) -> Iterator[str]:
    if node.unfit:
        yield f"{node.name}: {node.unfit}"
        return
    if node.kept_off or node.kept_off_job(job.id):
        for words in kept_off_words(node, now, job.id):
            yield f"{node.name} is {words}"
        return
    failed = [band for band in waiting if node.id in band.failed_on]
    if failed:
        tries = failed[0].failed_on.count(node.id)
        yield f"band {failed[0].id} failed on {node.name} {tries} times"
