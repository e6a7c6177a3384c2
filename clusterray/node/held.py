"""One attempt on this node, the stages it goes through, and the connection that vouches for it.

Only data: who may touch what says ``Held``. node.holdings has them all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from clusterray.core.model import LightKind, Rect
from clusterray.node.backoff import Backoff
from clusterray.node.cut_line import CutLine
from clusterray.node.folders import AttemptFolder
from clusterray.node.overlap import Outlook
from clusterray.povray.spec import RenderSpec
from clusterray.wire.protocol import (
    Failed,
    Grant,
    Lease,
    Message,
    PhaseSeconds,
    Progress,
    RectTuple,
)

RETRY_FIRST_S = 0.5
RETRY_MOST_S = 15.0

Report = Callable[[Message], bool]
"""Sends a message to the head; False if the connection is gone."""
Abort = Callable[[bool], None]
"""Breaks off what a thread does for an attempt; True: at once, with no time to tidy up."""


class Stage(Enum):
    """Where an attempt is on this node, which thread brings it on, and what may come next.

    QUEUED     render-N WORKING; gone by DROP, HANDBACK
    WORKING    render-N RENDERED, FAILED; gone by DROP, HANDBACK
    RENDERED   upload   STORED, FAILED; gone by DROP, HANDBACK
    STORED     none     RENDERED by KEEP, for the head wants it again; gone by ACCEPTED, DROP
    FAILED     none     gone once FAILED is sent, by DROP
    """

    QUEUED = "queued"
    WORKING = "working"
    RENDERED = "rendered"
    STORED = "stored"
    FAILED = "failed"


WITH_TILE = {Stage.RENDERED, Stage.STORED}
TO_RENDER = {Stage.QUEUED, Stage.WORKING}
UNFINISHED = {Stage.QUEUED, Stage.WORKING, Stage.RENDERED}


class Gone(Exception):
    """The attempt at hand counts no more, or the node stops: let go of it in silence."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A standing connection to the head, numbered from 1, and where its files are staged.

    ``fingerprint`` is the pin of both, "" without TLS.
    """

    number: int
    host: str
    ftp_port: int
    report: Report
    fingerprint: str = ""

    @property
    def ftp_place(self) -> tuple[str, int, str]:
        """Where the FTP server is: host, port, fingerprint."""
        return self.host, self.ftp_port, self.fingerprint


@dataclass(slots=True)
class Seconds:
    """Where an attempt's time went so far, wall seconds; the thread at work on it writes them."""

    fetch: float = 0.0
    parse: float = 0.0
    render: float = 0.0
    crop: float = 0.0
    upload: float = 0.0

    def report(self) -> PhaseSeconds:
        """Give the form that crosses the wire."""
        return PhaseSeconds(self.fetch, self.parse, self.render, self.crop, self.upload)


@dataclass(frozen=True, slots=True)
class Names:
    """The attempts still to be rendered, those whose tile waits, and what is left of cut bands."""

    rendering: list[str]
    rendered: list[str]
    kept: dict[str, RectTuple]


@dataclass(slots=True, eq=False)
class Held:
    """One attempt on this node.

    The first block never changes; the last one, from ``tile_bytes`` on, belongs to the thread at
    work; all else is guarded by the lock of Holdings. ``gone``: it counts no more, and a
    thread that is at work on it removes its folder when it lets go. ``leased_in`` is the number of
    the connection whose LEASE or KEEP vouches for it, None once its write grant was refused;
    ``announced_in`` the one that has been told UPLOADING. ``place``: it ends soon, so that another
    may begin beside it. ``looked``: it is known how it will get its tile. ``own_frame``: the
    picture that POV-Ray has left is of the band alone. ``line`` has a lock of its own.
    """

    attempt: str
    words: str
    lease: Lease
    spec: RenderSpec
    line: CutLine
    folder: AttemptFolder
    backoff: Backoff

    write: Grant
    leased_in: int | None
    stage: Stage = Stage.QUEUED
    gone: bool = False
    abort: Abort | None = None
    announced_in: int | None = None
    retry_at: float = 0.0
    failure: Failed | None = None
    told: Progress | None = None
    told_at: float = 0.0
    place: bool = False

    tile_bytes: int = 0
    tile_sha256: str = ""
    seconds: Seconds = field(default_factory=Seconds)
    gathers: int = 0
    used: tuple[LightKind, ...] = ()
    outlook: Outlook = field(default_factory=Outlook)
    probe_begun: bool = False
    looked: bool = False
    own_frame: bool = False
    text: str = ""

    @property
    def rect(self) -> Rect:
        """What is left of its band."""
        return self.line.rect


@dataclass(frozen=True, slots=True)
class Upload:
    """A tile to store now: by which connection's word, and under which grant."""

    held: Held
    connection: Connection
    grant: Grant


def hold(lease: Lease, attempts: Path, rng: random.Random) -> Held:
    """Make an attempt of its lease; ``attempts`` is where its folder will be.

    No connection vouches for it yet. Raises SceneFault or ValueError if the lease makes no sense.
    """
    spec = RenderSpec.from_wire(lease.spec)
    rect = Rect(*lease.rect)
    if lease.attempt in (".", ".."):
        raise ValueError(f"{lease.attempt} cannot be the name of a folder")
    if not Rect(0, 0, spec.width, spec.height).contains(rect):
        raise ValueError(f"{rect} lies outside {spec.width}x{spec.height}")
    return Held(
        attempt=lease.attempt,
        words=f"band {lease.band} of job {lease.job}",
        lease=lease,
        spec=spec,
        line=CutLine(rect, spec, closed=lease.stage != "final"),
        folder=AttemptFolder(attempts / lease.attempt, spec.file_format.tile.extension),
        backoff=Backoff(RETRY_FIRST_S, RETRY_MOST_S, rng),
        write=lease.write,
        leased_in=None,
    )
