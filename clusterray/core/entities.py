"""What the farm is made of: jobs, frames, bands, attempts, nodes.

Mutable, and owned by one Farm: nobody else writes a field. Others may read them between two
events. Times are the caller's monotonic seconds, named ``..._at``. Pure.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from clusterray.core.costs import CostMap
from clusterray.core.ends import Ends
from clusterray.core.events import Fault
from clusterray.core.model import (
    STAGE_OF,
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
from clusterray.core.pace import START_S, Pace, work_of
from clusterray.core.patience import Patience
from clusterray.core.states import (
    LIVE_ATTEMPT,
    OPEN_BAND,
    OPEN_JOB,
    AttemptState,
    BandState,
    FrameState,
    JobState,
    ProbeState,
)
from clusterray.core.verify import Comparison

STORY_LINES = 200
"""How much of a band's history is kept."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a job or an attempt failed, in words; POV-Ray's own, with file and line, if it spoke."""

    fault: Fault
    message: str
    file: str = ""
    line: int = 0
    text: str = ""


@dataclass(slots=True)
class Attempt:
    """One try of one band on one node.

    ``detached_until`` is None while its node's connection stands, else when it will be lost.
    ``due_at`` is when it must have moved on, see ``core.patience``; ``heard`` is what its node said
    last, the count of its phase and of other signs of life. ``uploads`` counts those that arrived
    damaged, ``held_up`` those that the head could not keep; ``again_at`` is when its node is asked
    for another. ``lights`` is the shared light it was leased with. ``late``: its result came too
    late and was dropped. ``rendered_at`` is when its node had the tile, ``ended_at`` when it was no
    longer live. ``sha256`` and ``size`` are those of the file that its node announced
    last; what was accepted is that one. ``pace`` is how it gets on, ``phase_at`` when its phase
    began. ``uncut``: its node said that it is too late to cut it. ``ending``: its node said that it
    ends so soon that there is a place for another band; no matter once it renders no more.
    """

    id: AttemptId
    band: Band
    node: NodeId
    node_name: str
    povray_class: PovrayClass
    leased_at: float
    state: AttemptState = AttemptState.RENDERING
    phase: str = "waiting"
    done: int = 0
    detached_until: float | None = None
    reason: str = ""
    lights: tuple[Light, ...] = ()
    due_at: float = 0.0
    heard: tuple[int, int] = (0, 0)
    uploads: int = 0
    held_up: int = 0
    again_at: float | None = None
    late: bool = False
    rendered_at: float | None = None
    ended_at: float | None = None
    sha256: str = ""
    size: int = 0
    pace: Pace = field(default_factory=Pace)
    phase_at: float = 0.0
    uncut: bool = False
    ending: bool = False

    @property
    def live(self) -> bool:
        """Tell whether a result of it would count."""
        return self.state in LIVE_ATTEMPT


@dataclass(slots=True)
class Band:
    """A rectangle of one frame, the unit of work; ``stage`` says what of it is made.

    ``failed_on`` names the node of each failure, in their order; ``stalls`` counts those of them
    that made no progress. A verify band renders the band ``again`` once more; ``comparison`` is
    what came of it, or ``reason`` why nothing did.
    """

    id: BandId
    frame: Frame
    rect: Rect
    stage: Stage = "final"
    state: BandState = BandState.WAITING
    attempts: list[Attempt] = field(default_factory=list)
    accepted: Attempt | None = None
    failed_on: tuple[NodeId, ...] = ()
    stalls: int = 0
    story: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=STORY_LINES))
    again: Band | None = None
    comparison: Comparison | None = None
    reason: str = ""

    @property
    def live_attempts(self) -> list[Attempt]:
        """The attempts whose results would count."""
        return [attempt for attempt in self.attempts if attempt.live]

    def take_apart(self) -> None:
        """Let go of its attempts, which hold it; for a band that is forgotten.

        What holds each other in a ring stays in memory until Python looks for rings, and that is
        seldom in a process with as many objects as a head has.
        """
        self.attempts.clear()
        self.accepted = self.again = None

    def reluctance(self, node: NodeId) -> int:
        """Tell how much another node should take it if one can: this one failed, or was first."""
        first = None if self.again is None else self.again.accepted
        return self.failed_on.count(node) + (first is not None and first.node == node)


@dataclass(slots=True)
class Probe:
    """The question whether a frame's pixels depend on threads, and what a node found.

    ``attempt`` is the one with whose lease it was asked, while it is. ``reason`` says why the last
    one that was asked did not tell.
    """

    state: ProbeState = ProbeState.DUE
    attempt: AttemptId | None = None
    asked: int = 0
    found: ProbeFound | None = None
    reason: str = ""


@dataclass(slots=True)
class Frame:
    """One picture of a job. ``area`` is what its bands partition, the region or a little more.

    ``bands``, ``waiting``, ``uncovered`` and ``rendered_*`` are those of its ``stage``, a light
    pass or the picture; ``passes`` are still to be done, the first is under way. ``light_bands``
    are those of passes that are over, and ``lights`` is what came of them.
    ``povray_class`` is that of the first node that took a band; which classes may take the others
    the job's ``mix`` says, until no tile is accepted or in the making. ``uncovered`` counts pixels.
    ``run`` counts how often the shells were asked to begin it.
    ``verify_bands`` are made when the picture is covered, and then ``waiting`` is theirs;
    ``give_up_at`` is when those that wait will be given up, None while a node may take them.
    ``probe`` is None where light is shared, or made by the one POV-Ray that renders all.
    ``costs`` is what its pixels are believed to cost, None while nothing is known, ``parse_s`` how
    long its scene takes to parse. ``scout`` is the attempt with whose lease one was asked for,
    while an answer is expected; ``scouts_asked`` counts how often, ``scouted``: one has told.
    ``work_done`` was done by all who render it in ``speed_s`` seconds, each counted as often as its
    node's speed (``core.pace``). ``tile_parses`` tells whether the tile of a cut band takes another
    parse, as the last node that cut one said.
    """

    job: Job
    index: int
    area: Rect
    state: FrameState = FrameState.FINAL
    passes: tuple[LightKind, ...] = ()
    lights: tuple[Light, ...] = ()
    probe: Probe | None = None
    povray_class: PovrayClass | None = None
    bands: dict[BandId, Band] = field(default_factory=dict)
    waiting: dict[BandId, Band] = field(default_factory=dict)
    light_bands: dict[BandId, Band] = field(default_factory=dict)
    verify_bands: dict[BandId, Band] = field(default_factory=dict)
    give_up_at: float | None = None
    uncovered: int = 0
    stitched: bool = False
    run: int = 0
    costs: CostMap | None = None
    parse_s: float | None = None
    scout: AttemptId | None = None
    scouts_asked: int = 0
    scouted: bool = False
    work_done: float = 0.0
    speed_s: float = 0.0
    tile_parses: bool = True

    @property
    def stage(self) -> Stage:
        """What its bands are for: its pass, or its picture."""
        return "final" if self.state is FrameState.FINAL else STAGE_OF[self.passes[0]]

    @property
    def rate(self) -> float:
        """The work a second of a node of speed 1; 0 while nothing is known."""
        return self.work_done / self.speed_s if self.speed_s else 0.0

    @property
    def start_s(self) -> float:
        """Seconds before a POV-Ray that is started for it renders."""
        return START_S + (self.parse_s or 0.0)

    @property
    def file_s(self) -> float:
        """Seconds that each POV-Ray takes to write the whole frame's file, however small its band
        (0.07 to 0.1 s a million pixels, POVRAY.md 10); where its blocks are enough for a tile, no
        more than another start.
        """
        picture = self.job.request.picture
        whole_s = FILE_S * picture.width * picture.height
        return whole_s if self.tile_parses else min(whole_s, START_S)

    @property
    def tile_s(self) -> float:
        """Seconds that a POV-Ray takes which makes the tile of a band that was cut."""
        return self.start_s if self.tile_parses else START_S

    def work(self, rect: Rect) -> float:
        """Give what the pixels of ``rect`` are believed to cost."""
        return work_of(self.costs, rect)

    @property
    def complete(self) -> bool:
        """Tell whether every tile of its picture is accepted."""
        return self.state is FrameState.FINAL and self.uncovered == 0

    @property
    def verified(self) -> bool:
        """Tell whether its picture is covered and no verify band of it is open."""
        bands = self.verify_bands.values()
        return self.complete and not any(band.state in OPEN_BAND for band in bands)

    @property
    def counting_bands(self) -> list[Band]:
        """The bands of its stage and its verify bands."""
        return [*self.bands.values(), *self.verify_bands.values()]

    @property
    def all_bands(self) -> list[Band]:
        """The bands it has and those of light passes that are over."""
        return [*self.light_bands.values(), *self.counting_bands]

    @property
    def has_pixels(self) -> bool:
        """Tell whether a tile of it is accepted or in the making, so that its class is settled."""
        return any(band.accepted or band.live_attempts for band in self.bands.values())

    @property
    def has_tiles(self) -> bool:
        """Tell whether something of it is in the making, or its picture has a tile already."""
        final = self.state is FrameState.FINAL
        bands = self.bands.values()
        return any(band.live_attempts or (final and band.accepted) for band in bands)

    @property
    def tile_classes(self) -> list[PovrayClass]:
        """The classes of the accepted tiles, each once; several only if the job lets them mix."""
        accepted = (band.accepted for band in self.bands.values())
        # First by identity: a class is a long thing to compare, and there are few.
        kinds = {id(each.povray_class): each.povray_class for each in accepted if each is not None}
        return list(dict.fromkeys(kinds.values()))


@dataclass(slots=True)
class Job:
    """What a person submitted, and how far it is.

    ``queued_at`` is when it came into the queue, also again; ``started_at`` when a band of it was
    leased since it was queued or resumed last, and ``counted_from`` the pixels that were there by
    then. ``priority`` is the request's until somebody changes it. ``paused_by`` is who paused
    it. ``gone`` says why nothing of its files is left, "" while they are kept.
    ``wasted_pixels`` were rendered for nothing: by attempts that failed, were lost or dropped.
    ``dropped_results`` counts whole tiles among them, which came after another had been asked.
    ``ends`` says when the attempts at its pictures that are being rendered are believed to end.
    """

    id: JobId
    number: int
    request: JobRequest
    submitted_at: float
    queued_at: float = 0.0
    priority: int = 0
    state: JobState = JobState.QUEUED
    frames: list[Frame] = field(default_factory=list)
    started_at: float | None = None
    ended_at: float | None = None
    problem: Problem | None = None
    reason: str = ""
    counted_from: int = 0
    paused_by: str = ""
    gone: str = ""
    wasted_pixels: int = 0
    dropped_results: int = 0
    ends: Ends = field(default_factory=Ends)

    @property
    def open(self) -> bool:
        """Tell whether it has not ended."""
        return self.state in OPEN_JOB

    def take_apart(self) -> None:
        """Let go of its frames, and have these let go of their bands; see ``Band.take_apart``."""
        for frame in self.frames:
            for bands in (frame.bands, frame.waiting, frame.light_bands, frame.verify_bands):
                bands.clear()
        self.frames.clear()

    @property
    def takes_leases(self) -> bool:
        """Tell whether its waiting bands may be handed out."""
        return self.open and self.state is not JobState.PAUSED

    @property
    def pixels_covered(self) -> int:
        """How many pixels of its pictures are there."""
        final = [frame for frame in self.frames if frame.state is FrameState.FINAL]
        return sum(frame.area.area - frame.uncovered for frame in final)

    @property
    def rank(self) -> tuple[int, int]:
        """Its place in the queue: higher priority first, then the older."""
        return -self.priority, self.number

    @property
    def has_waiting(self) -> bool:
        """Tell whether a band of it waits for a node."""
        return any(frame.waiting for frame in self.frames)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is held against a node: on one job, or on the whole farm.

    ``failures`` are those that no tile of it has made up for; on the whole farm, jobs that it
    failed on. ``times``: how often it was kept off since it last delivered. ``kept_off_until`` is
    None while it may work. ``reason`` is the last failure's.
    """

    failures: int = 0
    times: int = 0
    kept_off_until: float | None = None
    reason: str = ""


FILE_S = 0.1e-6
"""Seconds for each pixel of a frame."""
MOST_RENDERING = 2
"""So many attempts a node renders at most, and of two the older one ends soon."""


@dataclass(slots=True)
class Node:
    """A render machine. ``conn`` is None while it is away.

    ``unfit`` is why it cannot take bands though it is there. ``standing`` is what the whole farm
    holds against it, ``standings`` what open jobs do, see ``core.blame``. ``instance`` names the
    run of the daemon that holds the connection, ``place`` where it is; ``ousted`` are the runs that
    lost the connection to another. ``thread_speed`` is what one of its threads is worth beside the
    usual one; ``cuts`` tells whether it knows how to shrink a running band.
    """

    id: NodeId
    name: str
    threads: int
    povray_class: PovrayClass
    conn: int | None = None
    draining: bool = False
    unfit: str = ""
    attempts: dict[AttemptId, Attempt] = field(default_factory=dict)
    bands_done: int = 0
    pixels_done: int = 0
    failures: int = 0
    reason: str = ""
    standing: Standing = Standing()
    standings: dict[JobId, Standing] = field(default_factory=dict)
    instance: str = ""
    place: str = ""
    ousted: tuple[str, ...] = ()
    thread_speed: float = 1.0
    cuts: bool = False

    @property
    def speed(self) -> float:
        """How fast it is believed to be: threads of the usual speed."""
        return self.threads * self.thread_speed

    @property
    def kept_off(self) -> bool:
        """Tell whether it gets no band of any job."""
        return self.standing.kept_off_until is not None

    def kept_off_job(self, job: JobId) -> bool:
        """Tell whether it gets no band of this job."""
        standing = self.standings.get(job)
        return standing is not None and standing.kept_off_until is not None

    @property
    def usable(self) -> bool:
        """Tell whether it takes bands now or when it has a place."""
        there = self.conn is not None and not self.draining
        return there and not self.unfit and not self.kept_off

    @property
    def rendering(self) -> list[Attempt]:
        """Its attempts that are being rendered, two at most, the older one first."""
        return [each for each in self.attempts.values() if each.state is AttemptState.RENDERING]

    def assume_older_ends(self) -> None:
        """Believe of two that it renders that the older one ends soon.

        That is not stored, but without it the node would not have taken the other.
        """
        rendering = self.rendering
        if len(rendering) == MOST_RENDERING:
            rendering[0].ending = True

    @property
    def has_place(self) -> bool:
        """Tell whether it could take one more band now: it renders none, or one that ends soon."""
        if not self.usable:
            return False
        rendering = self.rendering
        return not rendering or (len(rendering) == 1 and rendering[0].ending)


@dataclass(frozen=True, slots=True)
class Ask:
    """A node was asked to keep only ``keep`` of a band, so that ``wanted_by`` gets the rest.

    If that is the node itself the rest is to wait for anybody.
    """

    keep: Rect
    wanted_by: NodeId
    at: float


@dataclass(slots=True)
class FarmState:
    """All that a farm holds; ``core.farm`` changes it, ``core.invariants`` checks it.

    ``open_jobs`` are those that have not ended, in queue order; ``kept`` those that have and whose
    files are still at the head, in the order in which they ended; ``deleted`` says of the last jobs
    that were deleted by whom. ``hungry`` are the nodes with a place for a band, the longest waiting
    first; ``detached`` the live attempts whose node is away, in the order in which they will be
    lost; ``verifying`` the frames with an open verify band; ``probing`` those whose probe is asked,
    by the attempt, and ``scouting`` those whose scout is; ``asks`` the cuts asked for and not
    answered, by the attempt. ``seek_at`` is when those with nothing to do look again for a running
    band to help with, None if nobody would. ``look_at`` is when the next of all else that time
    decides may be due, None if nothing is waited for; ``patience`` says how long it is. Until
    ``nodes_return_by`` nodes are on their way back to a head that was started again.
    """

    jobs: dict[JobId, Job] = field(default_factory=dict)
    bands: dict[BandId, Band] = field(default_factory=dict)
    attempts: dict[AttemptId, Attempt] = field(default_factory=dict)
    nodes: dict[NodeId, Node] = field(default_factory=dict)
    open_jobs: list[Job] = field(default_factory=list)
    kept: dict[JobId, Job] = field(default_factory=dict)
    deleted: dict[JobId, str] = field(default_factory=dict)
    hungry: dict[NodeId, Node] = field(default_factory=dict)
    detached: dict[AttemptId, Attempt] = field(default_factory=dict)
    verifying: dict[tuple[JobId, int], Frame] = field(default_factory=dict)
    probing: dict[AttemptId, Frame] = field(default_factory=dict)
    scouting: dict[AttemptId, Frame] = field(default_factory=dict)
    asks: dict[AttemptId, Ask] = field(default_factory=dict)
    seek_at: float | None = None
    look_at: float | None = None
    nodes_return_by: float = -math.inf
    patience: Patience = field(default_factory=Patience)
