"""The farm's parts as rows: what of each is stored, and how it is read back; no database here.

Moments are stored as wall time, for people; the farm's own clock means nothing in another process.
What only holds while a connection stands (deadlines, progress, what is held against a node) is
left out, and begins anew. A field that a later release adds needs a default, then old rows are
read as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from clusterray.core.changes import Changes
from clusterray.core.entities import (
    STORY_LINES,
    Attempt,
    Band,
    Frame,
    Job,
    Node,
    Probe,
    Problem,
)
from clusterray.core.farm import Farm
from clusterray.core.model import (
    AttemptId,
    BandId,
    JobId,
    JobRequest,
    Light,
    LightKind,
    NodeId,
    PovrayClass,
    ProbeFound,
    Rect,
    Stage,
)
from clusterray.core.restart_rules import Stored, number_of
from clusterray.core.states import (
    AttemptState,
    BandState,
    FrameState,
    JobState,
    ProbeState,
)
from clusterray.core.verify import Comparison


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is stored of one part beside its key."""


class JobRow(Row, frozen=True, omit_defaults=True):
    """A job but for its request, which never changes and has a column of its own."""

    state: JobState
    submitted: float
    queued: float
    priority: int = 0
    ended: float | None = None
    problem: Problem | None = None
    reason: str = ""
    paused_by: str = ""
    gone: str = ""
    wasted_pixels: int = 0
    dropped_results: int = 0


class ProbeRow(Row, frozen=True, omit_defaults=True):
    """A frame's probe."""

    state: ProbeState
    attempt: AttemptId | None = None
    asked: int = 0
    found: ProbeFound | None = None
    reason: str = ""


class FrameRow(Row, frozen=True, omit_defaults=True):
    """A frame but for its bands."""

    area: Rect
    state: FrameState
    passes: tuple[LightKind, ...] = ()
    lights: tuple[Light, ...] = ()
    probe: ProbeRow | None = None
    povray_class: str = ""
    stitched: bool = False
    run: int = 0


class BandRow(Row, frozen=True, omit_defaults=True):
    """A band but for its attempts; ``aside``: of a light pass that is over."""

    id: BandId
    frame: int
    rect: Rect
    stage: Stage
    state: BandState
    aside: bool = False
    accepted: AttemptId | None = None
    failed_on: tuple[NodeId, ...] = ()
    stalls: int = 0
    story: tuple[tuple[float, str], ...] = ()
    again: BandId | None = None
    comparison: Comparison | None = None
    reason: str = ""


class AttemptRow(Row, frozen=True, omit_defaults=True):
    """An attempt; ``povray_class`` is the key of its node's class then."""

    id: AttemptId
    band: BandId
    node: NodeId
    node_name: str
    povray_class: str
    leased: float
    state: AttemptState
    reason: str = ""
    done: int = 0
    lights: tuple[Light, ...] = ()
    late: bool = False
    sha256: str = ""
    size: int = 0
    rendered: float | None = None
    ended: float | None = None


class NodeRow(Row, frozen=True, omit_defaults=True):
    """A node that has been here."""

    name: str
    threads: int
    povray_class: str
    bands_done: int = 0
    pixels_done: int = 0
    failures: int = 0
    thread_speed: float = 1.0


@dataclass(slots=True)
class Rows:
    """The rows of a farm, or of what changed in one; jobs, bands and attempts by their numbers.

    ``requests`` are those of new jobs. Bands and attempts come with the number of their job.
    """

    requests: dict[int, JobRequest] = field(default_factory=dict)
    jobs: dict[int, JobRow] = field(default_factory=dict)
    frames: dict[tuple[int, int], FrameRow] = field(default_factory=dict)
    bands: dict[int, tuple[int, BandRow]] = field(default_factory=dict)
    attempts: dict[int, tuple[int, AttemptRow]] = field(default_factory=dict)
    nodes: dict[NodeId, NodeRow] = field(default_factory=dict)
    classes: dict[str, PovrayClass] = field(default_factory=dict)
    deleted: dict[JobId, str] = field(default_factory=dict)
    jobs_made: int = 0


def class_key(povray: PovrayClass) -> str:
    """Name a class by all that makes two of them differ."""
    return "\n".join((povray.version, povray.build, povray.canary, povray.includes))


class Writer:
    """Makes rows of parts. ``wall`` is what to add to the farm's time to get wall time."""

    def __init__(self, wall: float) -> None:
        self._wall = wall
        self._keys: dict[int, str] = {}
        self.rows = Rows()

    def changes(self, changes: Changes) -> Rows:
        """Make the rows of all that changed and is still there."""
        jobs = {job.id: job for job in changes.jobs.values() if job.id not in changes.gone_jobs}
        for job in jobs.values():
            self.job(job)
        for frame in changes.frames.values():
            if frame.job.id in jobs:
                self.frame(frame)
        for band in changes.bands.values():
            if band.frame.job.id not in changes.gone_jobs and band.id not in changes.gone_bands:
                self.band(band)
        for attempt in changes.attempts.values():
            gone = attempt.band.frame.job.id in changes.gone_jobs
            if not gone and attempt.id not in changes.gone_attempts:
                self.attempt(attempt)
        for node in changes.nodes.values():
            self.node(node)
        return self.rows

    def farm(self, farm: Farm) -> Rows:
        """Make the rows of a whole farm."""
        for job in farm.jobs.values():
            self.job(job)
            for frame in job.frames:
                self.frame(frame)
        for band in farm.bands.values():
            self.band(band)
        for attempt in farm.attempts.values():
            self.attempt(attempt)
        for node in farm.nodes.values():
            self.node(node)
        self.rows.deleted.update(farm.deleted)
        return self.rows

    def _wall_of(self, moment: float | None) -> float | None:
        return None if moment is None else moment + self._wall

    def job(self, job: Job) -> None:
        """Add a job's row."""
        self.rows.requests[job.number] = job.request
        self.rows.jobs_made = max(self.rows.jobs_made, job.number)
        self.rows.jobs[job.number] = JobRow(
            job.state,
            job.submitted_at + self._wall,
            job.queued_at + self._wall,
            job.priority,
            self._wall_of(job.ended_at),
            job.problem,
            job.reason,
            job.paused_by,
            job.gone,
            job.wasted_pixels,
            job.dropped_results,
        )

    def frame(self, frame: Frame) -> None:
        """Add a frame's row."""
        probe = frame.probe
        self.rows.frames[frame.job.number, frame.index] = FrameRow(
            frame.area,
            frame.state,
            frame.passes,
            frame.lights,
            None
            if probe is None
            else ProbeRow(probe.state, probe.attempt, probe.asked, probe.found, probe.reason),
            "" if frame.povray_class is None else self._class(frame.povray_class),
            frame.stitched,
            frame.run,
        )

    def band(self, band: Band) -> None:
        """Add a band's row."""
        row = BandRow(
            band.id,
            band.frame.index,
            band.rect,
            band.stage,
            band.state,
            band.id in band.frame.light_bands,
            None if band.accepted is None else band.accepted.id,
            band.failed_on,
            band.stalls,
            tuple((at + self._wall, line) for at, line in band.story),
            None if band.again is None else band.again.id,
            band.comparison,
            band.reason,
        )
        self.rows.bands[number_of(band.id)] = band.frame.job.number, row

    def attempt(self, attempt: Attempt) -> None:
        """Add an attempt's row; how far a live one is is not stored."""
        row = AttemptRow(
            attempt.id,
            attempt.band.id,
            attempt.node,
            attempt.node_name,
            self._class(attempt.povray_class),
            attempt.leased_at + self._wall,
            attempt.state,
            attempt.reason,
            0 if attempt.state is AttemptState.RENDERING else attempt.done,
            attempt.lights,
            attempt.late,
            attempt.sha256,
            attempt.size,
            self._wall_of(attempt.rendered_at),
            self._wall_of(attempt.ended_at),
        )
        self.rows.attempts[number_of(attempt.id)] = attempt.band.frame.job.number, row

    def node(self, node: Node) -> None:
        """Add a node's row."""
        self.rows.nodes[node.id] = NodeRow(
            node.name,
            node.threads,
            self._class(node.povray_class),
            node.bands_done,
            node.pixels_done,
            node.failures,
            node.thread_speed,
        )

    def _class(self, povray: PovrayClass) -> str:
        # By identity: a class is a long thing to name, and there are few.
        key = self._keys.get(id(povray))
        if key is None:
            key = self._keys[id(povray)] = class_key(povray)
            self.rows.classes[key] = povray
        return key


class Reader:
    """Makes a farm of rows. ``wall`` is what to take from wall time to get the farm's time.

    No moment is later than ``now``, though the clock on the wall was set back meanwhile.
    """

    def __init__(self, rows: Rows, wall: float, now: float) -> None:
        self._rows = rows
        self._wall = wall
        self._now = now

    def _at(self, moment: float) -> float:
        return min(moment - self._wall, self._now)

    def _at_if(self, moment: float | None) -> float | None:
        return None if moment is None else self._at(moment)

    def stored(self) -> Stored:
        """Give the farm; raises KeyError or ValueError where rows contradict each other."""
        rows = self._rows
        jobs = {number: self._job(number, row) for number, row in sorted(rows.jobs.items())}
        for (number, index), row in sorted(rows.frames.items()):
            jobs[number].frames.append(self._frame(jobs[number], index, row))
        bands: dict[BandId, Band] = {}
        for _, (number, band) in sorted(rows.bands.items()):
            bands[band.id] = self._band(jobs[number].frames[band.frame], band)
        attempts = {}
        for _, (_, attempt) in sorted(rows.attempts.items()):
            attempts[attempt.id] = self._attempt(bands[attempt.band], attempt)
        for _, band in rows.bands.values():
            _link(bands[band.id], band, bands, attempts)
        for job in jobs.values():
            for frame in job.frames:
                _count(frame)
        nodes = tuple(self._node(node, row) for node, row in rows.nodes.items())
        return Stored(tuple(jobs.values()), nodes, rows.deleted, rows.jobs_made)

    def _job(self, number: int, row: JobRow) -> Job:
        return Job(
            JobId(f"j{number}"),
            number,
            self._rows.requests[number],
            self._at(row.submitted),
            self._at(row.queued),
            row.priority,
            row.state,
            ended_at=self._at_if(row.ended),
            problem=row.problem,
            reason=row.reason,
            paused_by=row.paused_by,
            gone=row.gone,
            wasted_pixels=row.wasted_pixels,
            dropped_results=row.dropped_results,
        )

    def _frame(self, job: Job, index: int, row: FrameRow) -> Frame:
        probe = row.probe
        return Frame(
            job,
            index,
            row.area,
            row.state,
            row.passes,
            row.lights,
            None
            if probe is None
            else Probe(probe.state, probe.attempt, probe.asked, probe.found, probe.reason),
            self._rows.classes[row.povray_class] if row.povray_class else None,
            stitched=row.stitched,
            run=row.run,
        )

    def _band(self, frame: Frame, row: BandRow) -> Band:
        band = Band(
            row.id,
            frame,
            row.rect,
            row.stage,
            row.state,
            failed_on=row.failed_on,
            stalls=row.stalls,
            story=deque(((self._at(at), line) for at, line in row.story), maxlen=STORY_LINES),
            comparison=row.comparison,
            reason=row.reason,
        )
        place = frame.verify_bands if row.stage == "verify" else frame.bands
        if row.aside:
            place = frame.light_bands
        place[band.id] = band
        return band

    def _attempt(self, band: Band, row: AttemptRow) -> Attempt:
        attempt = Attempt(
            row.id,
            band,
            row.node,
            row.node_name,
            self._rows.classes[row.povray_class],
            self._at(row.leased),
            row.state,
            done=row.done,
            reason=row.reason,
            lights=row.lights,
            late=row.late,
            rendered_at=self._at_if(row.rendered),
            ended_at=self._at_if(row.ended),
            sha256=row.sha256,
            size=row.size,
        )
        if row.state is AttemptState.UPLOADING:
            attempt.phase = "uploading"
        band.attempts.append(attempt)
        return attempt

    def _node(self, node: NodeId, row: NodeRow) -> Node:
        return Node(
            node,
            row.name,
            row.threads,
            self._rows.classes[row.povray_class],
            bands_done=row.bands_done,
            pixels_done=row.pixels_done,
            failures=row.failures,
            thread_speed=row.thread_speed,
            reason="it has not come back since the head was started",
        )


def _link(
    band: Band,
    row: BandRow,
    bands: Mapping[BandId, Band],
    attempts: Mapping[AttemptId, Attempt],
) -> None:
    if row.accepted is not None:
        band.accepted = attempts[row.accepted]
    if row.again is not None:
        band.again = bands[row.again]


def _count(frame: Frame) -> None:
    """Find what follows from a frame's bands: those that wait, topmost first, and what lacks."""
    counting = sorted(frame.counting_bands, key=lambda band: (band.rect.y0, band.rect.x0))
    frame.waiting = {band.id: band for band in counting if band.state is BandState.WAITING}
    lacking = (band for band in frame.bands.values() if band.state is not BandState.COVERED)
    frame.uncovered = sum(band.rect.area for band in lacking)
