"""The farm's numbered invariants, checked after every event in tests; pure.

ARCHITECTURE.md lists them for the reader; a test compares the numbers and the words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from clusterray.core.bands import are_disjoint, covers
from clusterray.core.blame import clocks_of
from clusterray.core.entities import MOST_RENDERING, Attempt, Band, FarmState, Frame
from clusterray.core.likeness import may_share
from clusterray.core.policy import has_takers, reads_light
from clusterray.core.states import AttemptState, BandState, FrameState, JobState, ProbeState


class InvariantBroken(Exception):
    """The farm contradicts itself; the message names the invariant and tells the stories."""


def check_farm(farm: FarmState) -> None:
    """Raise InvariantBroken for the first invariant that does not hold."""
    for invariant in INVARIANTS:
        for complaint, bands in invariant(farm):
            stories = "\n".join(line for band in bands for line in tell_story(band))
            raise InvariantBroken(f"{invariant.__doc__}\n{complaint}\n{stories}")


def tell_story(band: Band) -> list[str]:
    """Tell one band's history, a line an event, oldest first."""
    return [f"{at:.3f} {line}" for at, line in band.story]


Complaints = Iterator[tuple[str, list[Band]]]


def _band_states(farm: FarmState) -> Complaints:
    """1. A band is waiting without a live attempt, running on one, covered or compared by an
    accepted one, or void.
    """
    for band in farm.bands.values():
        live, again = bool(band.live_attempts), band.stage == "verify"
        fits = {
            BandState.WAITING: not live and band.accepted is None,
            BandState.RUNNING: live and band.accepted is None,
            BandState.COVERED: not live and band.accepted is not None,
            BandState.COMPARED: not live and band.accepted is not None and again,
            BandState.VOID: not live and (again or _is_over(band)),
        }
        if not fits[band.state]:
            yield f"{band.id} is {band.state} with live attempts: {live}", [band]


def _is_over(band: Band) -> bool:
    return not band.frame.job.open or band.id in band.frame.light_bands


def _node_and_attempt(farm: FarmState) -> Complaints:
    """2. A node lists an attempt if and only if the attempt is live and names the node."""
    for attempt in farm.attempts.values():
        if (attempt.id in farm.nodes[attempt.node].attempts) is not attempt.live:
            yield f"{attempt.id} is {attempt.state}, {attempt.node_name} differs", [attempt.band]
    for node in farm.nodes.values():
        for attempt in node.attempts.values():
            if attempt.node != node.id:
                yield f"{node.name} lists {attempt.id} of another node", [attempt.band]


def _partition(farm: FarmState) -> Complaints:
    """3. The bands of a frame are disjoint and together cover its area."""
    for frame in _frames(farm):
        rects = [band.rect for band in frame.bands.values()]
        if not are_disjoint(rects) or not covers(frame.area, rects):
            yield f"{frame.job.id}: the bands are no partition", list(frame.bands.values())


def _covered(farm: FarmState) -> Complaints:
    """4. A frame lacks the pixels of its uncovered bands; a stitched or done job lacks none."""
    for frame in _frames(farm):
        bands = list(frame.bands.values())
        lacking = sum(band.rect.area for band in bands if band.state is not BandState.COVERED)
        finished = frame.job.state in (JobState.STITCHING, JobState.DONE)
        if lacking != frame.uncovered or (finished and lacking):
            yield f"{frame.job.id} lacks {lacking}, says {frame.uncovered}", bands


def _alike(farm: FarmState) -> Complaints:
    """5. All live and accepted attempts of a frame, its verify bands too, are of its class or one
    the job's mix admits.
    """
    for frame in _frames(farm):
        for band in frame.counting_bands:
            for attempt in band.attempts:
                counts = attempt.live or attempt is band.accepted
                if counts and not _fits(attempt, frame):
                    yield f"{attempt.id} is of class {attempt.povray_class}", [band]


def _fits(attempt: Attempt, frame: Frame) -> bool:
    first, mix = frame.povray_class, frame.job.request.mix
    return first is not None and may_share(mix, first, attempt.povray_class)


def _deadlines(farm: FarmState) -> Complaints:
    """6. A live attempt has a connected node, or else a deadline and a place in ``detached``."""
    for attempt in farm.attempts.values():
        away = attempt.live and farm.nodes[attempt.node].conn is None
        if away is not (attempt.id in farm.detached):
            yield f"{attempt.id}: away {away}, but detached differs", [attempt.band]
        if away is not (attempt.detached_until is not None):
            yield f"{attempt.id}: away {away}, deadline {attempt.detached_until}", [attempt.band]


def _ended(farm: FarmState) -> Complaints:
    """7. An ended job has no live attempt and no waiting band, and is not in the queue."""
    for job in farm.jobs.values():
        if job.open is not (job in farm.open_jobs):
            yield f"{job.id} is {job.state}, the queue differs", []
        bands = [band for frame in job.frames for band in frame.all_bands]
        busy = [band for band in bands if band.live_attempts]
        if not job.open and (busy or job.has_waiting):
            yield f"{job.id} is {job.state} but has work", busy


def _indexes(farm: FarmState) -> Complaints:
    """8. The waiting bands and the nodes with a place are just those that the indexes list."""
    for frame in _frames(farm):
        for band in frame.all_bands:
            if (band.state is BandState.WAITING) is not (band.id in frame.waiting):
                yield f"{band.id} is {band.state}, the index differs", [band]
        for band in frame.waiting.values():
            if farm.bands.get(band.id) is not band:
                yield f"{band.id} waits and is forgotten", [band]
    for node in farm.nodes.values():
        if node.has_place is not (node.id in farm.hungry):
            yield f"{node.name}: place {node.has_place}, the index differs", []


def _one_place(farm: FarmState) -> Complaints:
    """9. A node renders at most one attempt at a time, or two of which the older ends soon; and a
    band has at most one live attempt, but one of the picture up to two, on two nodes.
    """
    for node in farm.nodes.values():
        rendering = node.rendering
        leased_at = [attempt.leased_at for attempt in rendering]
        few = len(rendering) < MOST_RENDERING
        if not few and not (len(rendering) == MOST_RENDERING and rendering[0].ending):
            yield f"{node.name} renders several", [attempt.band for attempt in rendering]
        if leased_at != sorted(leased_at):
            yield f"{node.name} does not list the older first", [a.band for a in rendering]
    for band in farm.bands.values():
        live = [attempt.node for attempt in band.live_attempts]
        if len(live) > (2 if band.stage == "final" else 1) or len(set(live)) < len(live):
            yield f"{band.id} has several live attempts", [band]


def _queue_order(farm: FarmState) -> Complaints:
    """10. The queue is in order of priority, then age."""
    ranks = [job.rank for job in farm.open_jobs]
    if ranks != sorted(ranks):
        yield f"the queue is {ranks}", []


def _one_light(farm: FarmState) -> Complaints:
    """11. A frame's bands are of its stage; while it joins light all of them are covered.

    All live and accepted attempts at them and its verify bands carry its lights, of each kind at
    most one, and have a POV-Ray that reads them. No band of a pass that is over has a live attempt.
    """
    for frame in _frames(farm):
        if (frame.state is FrameState.FINAL) is not (not frame.passes):
            yield f"{frame.job.id} is {frame.state} with passes {frame.passes}", []
        if len({light.kind for light in frame.lights}) < len(frame.lights):
            yield f"{frame.job.id} has two lights of a kind", []
        for band in frame.light_bands.values():
            if band.live_attempts:
                yield f"{band.id} is at work for a pass that is over", [band]
        for band in frame.bands.values():
            if band.stage != frame.stage:
                yield f"{band.id} is for {band.stage}, its frame is {frame.state}", [band]
            if frame.state is FrameState.JOINING and band.state is BandState.WAITING:
                yield f"{band.id} waits, its frame is {frame.state}", [band]
        for band in frame.counting_bands:
            for attempt in band.attempts:
                counts = attempt.live or attempt is band.accepted
                if counts and attempt.lights != frame.lights:
                    yield f"{attempt.id} has another light than its frame", [band]
                if counts and not reads_light(attempt.povray_class, frame):
                    yield f"{attempt.id} cannot read the light of its frame", [band]


def _verified(farm: FarmState) -> Complaints:
    """12. Each verify band is another covered band of its frame once more: its rectangle, never its
    pixels. The frame is listed while one is open, and a done job has none open.
    """
    for frame in _frames(farm):
        again = list(frame.verify_bands.values())
        for band in again:
            first = band.again
            known = first is not None and frame.bands.get(first.id) is first
            if first is None or not known or band.rect != first.rect or band.id in frame.bands:
                yield f"{band.id} is no band of its frame once more", [band]
            elif frame.job.open and first.state is not BandState.COVERED:
                yield f"{band.id} renders again what is {first.state}", [band, first]
        if len({id(band.again) for band in again}) != len(again):
            yield f"{frame.job.id}: a band is rendered again twice", again
        is_open = frame.complete and not frame.verified
        if is_open is not ((frame.job.id, frame.index) in farm.verifying):
            yield f"{frame.job.id}: a verify band is open: {is_open}, the index differs", again
        if frame.job.state is JobState.DONE and is_open:
            yield f"{frame.job.id} is done, but not verified", again


def _given_up(farm: FarmState) -> Complaints:
    """13. Verify bands that wait while no node may take them have a deadline; no other frame has
    one.
    """
    nodes, tries = farm.nodes.values(), farm.patience.band_tries
    for frame in _frames(farm):
        listed = (frame.job.id, frame.index) in farm.verifying
        lone = listed and bool(frame.waiting) and not has_takers(frame, nodes, tries)
        if lone is not (frame.give_up_at is not None):
            yield f"{frame.job.id}: nobody to verify it: {lone}, {frame.give_up_at}", []


def _probes(farm: FarmState) -> Complaints:
    """14. A probe is asked of one attempt at the frame's picture, a scout of one at any of its
    stages, of a node that may yet tell.

    That is a live attempt, or an accepted one whose node is there. A frame with light has no probe.
    """
    asked, scouts = {}, {}
    for frame in _frames(farm):
        probe, scout = frame.probe, frame.scout
        if scout is not None:
            scouts[scout] = frame
            attempt = farm.attempts[scout]
            if attempt.band.frame is not frame or not _may_tell(farm, attempt):
                yield f"{attempt.id} is {attempt.state}, but asked for a scout", [attempt.band]
        if probe is not None and frame.lights:
            yield f"{frame.job.id} has shared light and a probe", []
        if probe is None or probe.state is not ProbeState.ASKED or probe.attempt is None:
            continue
        asked[probe.attempt] = frame
        attempt = farm.attempts[probe.attempt]
        fits = attempt.band.frame is frame and attempt.band.stage == "final"
        if not fits or not _may_tell(farm, attempt):
            yield f"{attempt.id} is {attempt.state}, but asked for a probe", [attempt.band]
    if asked.keys() != farm.probing.keys():
        yield f"probes are asked of {sorted(asked)}, the index differs", []
    if scouts.keys() != farm.scouting.keys():
        yield f"scouts are asked of {sorted(scouts)}, the index differs", []


def _may_tell(farm: FarmState, attempt: Attempt) -> bool:
    there = farm.nodes[attempt.node].conn is not None
    return attempt.live or (attempt is attempt.band.accepted and there)


def _kept(farm: FarmState) -> Complaints:
    """15. Of the jobs that have ended those whose files are kept are listed as they ended, and no
    other; of one that failed or was cancelled nothing is covered once its files are gone.
    """
    ended = [job for job in farm.jobs.values() if not job.open and not job.gone]
    if set(farm.kept) != {job.id for job in ended}:
        yield f"kept are {[job.id for job in ended]}, listed {list(farm.kept)}", []
    ends = [job.ended_at or 0.0 for job in farm.kept.values()]
    if ends != sorted(ends):
        yield f"the kept jobs are listed by their ends at {ends}", []
    for job in farm.jobs.values():
        bands = [band for frame in job.frames for band in frame.bands.values()]
        there = [band for band in bands if band.state is BandState.COVERED]
        if job.gone and job.state is not JobState.DONE and there:
            yield f"the files of {job.id} are gone", there


def _clocks(farm: FarmState) -> Complaints:
    """16. The farm looks at its clocks no later than the first of them is due.

    These are the deadline by which each attempt of a connected node must have moved on, the time at
    which a tile is asked for again, and the one at which a node is let in again.
    """
    for node in farm.nodes.values():
        first = min(clocks_of(node), default=math.inf)
        if first < (math.inf if farm.look_at is None else farm.look_at):
            yield f"{node.name} has a clock due at {first}, the next look is at {farm.look_at}", []


def _accounts(farm: FarmState) -> Complaints:
    """17. What is held against a node on one job is held on a job that is open."""
    for node in farm.nodes.values():
        for job in node.standings:
            if job not in farm.jobs or not farm.jobs[job].open:
                yield f"{node.name} still has an account on {job}", []


def _asks(farm: FarmState) -> Complaints:
    """18. A cut is asked for of an attempt that renders the picture, of a node that is there; only
    such attempts are believed to end.
    """
    for attempt_id in farm.asks:
        attempt = farm.attempts[attempt_id]
        there = farm.nodes[attempt.node].conn is not None
        if not (there and _renders_picture(attempt)):
            yield f"{attempt.id} is {attempt.state}, but to be cut", [attempt.band]
    for job in farm.jobs.values():
        for attempt_id in job.ends.latest(len(job.ends)):
            attempt = farm.attempts[attempt_id]
            if not _renders_picture(attempt) or attempt.band.frame.job is not job:
                yield f"{attempt.id} is {attempt.state}, but to end", [attempt.band]


def _renders_picture(attempt: Attempt) -> bool:
    return attempt.state is AttemptState.RENDERING and attempt.band.stage == "final"


def _frames(farm: FarmState) -> Iterator[Frame]:
    for job in farm.jobs.values():
        yield from job.frames


INVARIANTS: tuple[Callable[[FarmState], Complaints], ...] = (
    _band_states,
    _node_and_attempt,
    _partition,
    _covered,
    _alike,
    _deadlines,
    _ended,
    _indexes,
    _one_place,
    _queue_order,
    _one_light,
    _verified,
    _given_up,
    _probes,
    _kept,
    _clocks,
    _accounts,
    _asks,
)
