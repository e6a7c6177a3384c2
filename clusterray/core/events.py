"""What can happen to the farm: the only words that change it. Frozen values, pure.

``conn`` is the head's number of a control connection; it is never used twice, so an event from a
connection that was superseded is known by its number and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from clusterray.core.costs import CostMap
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
)
from clusterray.core.verify import Comparison

Fault: TypeAlias = Literal["scene", "node", "head"]
"""Whose fault it is that something failed."""


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node said HELLO. ``rendering`` and ``rendered`` are the attempts it still holds.

    ``instance`` names the run of the daemon, or else the address it comes from: two that are alive
    with one uuid have two. ``place`` tells a person where it is. ``unfit`` is why it cannot take
    bands now, "" if it can. ``kept`` is what the node agreed to keep of bands that were cut.
    ``cuts`` tells whether it can be asked for that. ``canary_cpu_s`` is what the canary took one of
    its threads, 0 if that is not known.
    """

    conn: int
    node: NodeId
    name: str
    threads: int
    povray_class: PovrayClass
    rendering: frozenset[AttemptId] = frozenset()
    rendered: frozenset[AttemptId] = frozenset()
    instance: str = ""
    place: str = ""
    unfit: str = ""
    kept: Mapping[AttemptId, Rect] = field(default_factory=dict)
    cuts: bool = False
    canary_cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeGone:
    """The connection ``conn`` of a node has ended; ``silent``: nothing was heard for too long."""

    conn: int
    reason: str
    silent: bool = False


@dataclass(frozen=True, slots=True)
class NodeDraining:
    """The node will leave soon and wants no more work."""

    conn: int


@dataclass(frozen=True, slots=True)
class NodeUnfit:
    """The node cannot take bands now, and why; "": it can again."""

    conn: int
    reason: str


@dataclass(frozen=True, slots=True)
class NodeForgiven:
    """A person wants nothing held against the node any more."""

    node: NodeId
    by: str


@dataclass(frozen=True, slots=True)
class AttemptProgress:
    """How far an attempt is: pixels of its rectangle while it renders, bytes in other phases.

    ``moves`` counts what else POV-Ray says while it renders, such as photons: it lives. ``place``:
    it ends so soon that its node has a place for another band.
    """

    conn: int
    attempt: AttemptId
    phase: str
    done: int
    moves: int = 0
    place: bool = False


@dataclass(frozen=True, slots=True)
class AttemptCut:
    """The answer to a cut: the node renders only ``keep``; all of its band if it is too late.

    ``parses``: the tile of what it keeps takes a parse of the whole scene.
    """

    conn: int
    attempt: AttemptId
    keep: Rect
    parses: bool = True


@dataclass(frozen=True, slots=True)
class AttemptRendered:
    """The node has the tile and begins to upload it; its place is free.

    ``size`` and ``sha256`` are those of the file that will come.
    """

    conn: int
    attempt: AttemptId
    size: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class TileVerified:
    """The tile of ``attempt`` lies whole at the head, its hash and pixels checked."""

    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class TileRefused:
    """What was uploaded for ``attempt`` is not its tile, and why."""

    attempt: AttemptId
    reason: str


@dataclass(frozen=True, slots=True)
class UploadDamaged:
    """What arrived for ``attempt`` is not the file that its node announced, and how."""

    attempt: AttemptId
    reason: str


@dataclass(frozen=True, slots=True)
class TileNotKept:
    """The head could not keep what its node uploaded for ``attempt``, and why: our own fault."""

    attempt: AttemptId
    reason: str


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """The node could not render; ``fault`` says whether the scene or the node is to blame."""

    conn: int
    attempt: AttemptId
    fault: Fault
    message: str
    file: str = ""
    line: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class AttemptHandedBack:
    """The node gives the attempt back unfinished, nobody at fault."""

    conn: int
    attempt: AttemptId
    reason: str


@dataclass(frozen=True, slots=True)
class Probed:
    """The answer to a probe that was asked for with ``attempt``; None: ``reason`` says why."""

    conn: int
    attempt: AttemptId
    found: ProbeFound | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Scouted:
    """What the scout saw that was asked for with ``attempt``: CPU seconds of parsing and costs.

    Without a ``reason`` it is an answer, though no costs could be told; a finer one may follow.
    With one nothing came of it, and that is why.
    """

    conn: int
    attempt: AttemptId
    costs: CostMap | None
    parse_s: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class JobSubmitted:
    """A client wants this rendered; ``reply`` names whom to answer."""

    reply: int
    request: JobRequest


@dataclass(frozen=True, slots=True)
class JobCancelled:
    """A person wants the job stopped."""

    job: JobId
    by: str


@dataclass(frozen=True, slots=True)
class JobPaused:
    """A person wants no more of the job leased; ``now``: nor what is leased to go on."""

    job: JobId
    by: str
    now: bool = False


@dataclass(frozen=True, slots=True)
class JobResumed:
    """A person wants a paused job to go on."""

    job: JobId
    by: str


@dataclass(frozen=True, slots=True)
class JobRequeued:
    """A person wants a job that has ended to run again; ``everything``: from the start."""

    job: JobId
    by: str
    everything: bool = False


@dataclass(frozen=True, slots=True)
class PriorityChanged:
    """A person wants the job to stand elsewhere in the queue."""

    job: JobId
    by: str
    priority: int


@dataclass(frozen=True, slots=True)
class JobDeleted:
    """A person wants nothing of the job to stay; ``force``: even if it has not ended."""

    job: JobId
    by: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class FilesUnwanted:
    """The room that the files of a job that has ended take is needed; ``reason`` is for people."""

    job: JobId
    reason: str


@dataclass(frozen=True, slots=True)
class LightJoined:
    """What the bands of a frame's light pass found lies in one file; None: they found nothing."""

    job: JobId
    frame: int
    light: Light | None
    run: int = 0


@dataclass(frozen=True, slots=True)
class Compared:
    """The tile of a verify band was compared with the accepted one; None: it cannot be, and why."""

    job: JobId
    frame: int
    band: BandId
    comparison: Comparison | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FrameStitched:
    """The finished picture of a frame is written. ``run`` as in BeginFrame."""

    job: JobId
    frame: int
    run: int = 0


@dataclass(frozen=True, slots=True)
class FrameFailed:
    """The picture of a frame could not be written."""

    job: JobId
    frame: int
    reason: str
    run: int = 0


@dataclass(frozen=True, slots=True)
class Arrived:
    """A whole and checked file of a live attempt lies at the head."""

    attempt: AttemptId
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """The farm was read back from where it was stored; no node is connected.

    ``tiles`` are the accepted attempts whose files are on the disk as they were accepted,
    ``lights`` the frames' lights and ``pictures`` the jobs' finished pictures that are. ``arrived``
    are files whose acceptance was not stored any more.
    """

    tiles: frozenset[AttemptId]
    lights: frozenset[tuple[JobId, int, LightKind]] = frozenset()
    pictures: frozenset[JobId] = frozenset()
    arrived: tuple[Arrived, ...] = ()


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; deadlines may be over."""


Event: TypeAlias = (
    NodeJoined
    | NodeGone
    | NodeDraining
    | NodeUnfit
    | NodeForgiven
    | AttemptProgress
    | AttemptCut
    | AttemptRendered
    | TileVerified
    | TileRefused
    | UploadDamaged
    | TileNotKept
    | AttemptFailed
    | AttemptHandedBack
    | Probed
    | Scouted
    | JobSubmitted
    | JobCancelled
    | JobPaused
    | JobResumed
    | JobRequeued
    | PriorityChanged
    | JobDeleted
    | FilesUnwanted
    | LightJoined
    | Compared
    | FrameStitched
    | FrameFailed
    | Restarted
    | Tick
)
