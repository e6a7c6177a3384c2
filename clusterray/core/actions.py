"""What the farm asks of the shells around it. Frozen values, pure.

Each is an order, carried out after the farm's new state is safe. None may be answered but by a
later event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from clusterray.core.model import (
    AttemptId,
    BandId,
    JobId,
    JobRequest,
    Light,
    LightKind,
    Rect,
    Stage,
)


@dataclass(frozen=True, slots=True)
class SendLease:
    """Hand the band to the node behind ``conn``, with fresh read and write grants.

    ``stage`` says what light is to be made, or that the picture is to be rendered (for a verify
    band it is rendered once more), all with the ``lights`` that there are. ``probe`` asks for a
    probe of the frame besides, ``scout`` for its scout.
    """

    conn: int
    attempt: AttemptId
    band: BandId
    job: JobId
    frame: int
    rect: Rect
    request: JobRequest
    stage: Stage = "final"
    lights: tuple[Light, ...] = ()
    probe: bool = False
    node_name: str = ""
    scout: bool = False


@dataclass(frozen=True, slots=True)
class SendKeep:
    """Tell a node that came back to go on with the attempt, with a fresh write grant."""

    conn: int
    attempt: AttemptId
    job: JobId
    rect: Rect
    request: JobRequest
    stage: Stage = "final"


@dataclass(frozen=True, slots=True)
class SendCut:
    """Ask a node to render only ``keep`` of its attempt's band, or a little more."""

    conn: int
    attempt: AttemptId
    keep: Rect


@dataclass(frozen=True, slots=True)
class SendDrop:
    """Tell a node that the attempt counts no more."""

    conn: int
    attempt: AttemptId
    reason: str


@dataclass(frozen=True, slots=True)
class SendAccepted:
    """Tell a node that its tile is safe."""

    conn: int
    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """Say BYE with ``reason`` and close."""

    conn: int
    reason: str


@dataclass(frozen=True, slots=True)
class RevokeGrants:
    """The logins of this attempt open nothing from now on."""

    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class DiscardTile:
    """Delete what was uploaded for this attempt."""

    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class BeginFrame:
    """Make ready for the tiles of a frame.

    ``run`` counts how often that was asked for: what comes of an earlier run is stale.
    """

    job: JobId
    frame: int
    request: JobRequest
    run: int = 0


@dataclass(frozen=True, slots=True)
class JoinLight:
    """Make one file of what a light pass found, which ``attempts`` uploaded, topmost first."""

    job: JobId
    frame: int
    kind: LightKind
    attempts: tuple[AttemptId, ...]


@dataclass(frozen=True, slots=True)
class AddTile:
    """Put the accepted tile of ``attempt`` into its frame."""

    job: JobId
    frame: int
    attempt: AttemptId
    rect: Rect


@dataclass(frozen=True, slots=True)
class CompareTiles:
    """Compare the tiles of two attempts at ``rect``, the accepted one and that of a verify band."""

    job: JobId
    frame: int
    band: BandId
    rect: Rect
    first: AttemptId
    second: AttemptId


@dataclass(frozen=True, slots=True)
class FinishFrame:
    """All tiles are there: write the picture."""

    job: JobId
    frame: int


@dataclass(frozen=True, slots=True)
class DiscardTiles:
    """Delete what ``attempts`` uploaded and the light of ``frames``: the job needs them no more."""

    job: JobId
    frames: tuple[int, ...]
    attempts: tuple[AttemptId, ...]


@dataclass(frozen=True, slots=True)
class DiscardResult:
    """Delete the finished picture of a job and what POV-Ray said of it."""

    job: JobId


@dataclass(frozen=True, slots=True)
class JobDone:
    """Nothing more is to be done for a job whose pictures are written."""

    job: JobId


@dataclass(frozen=True, slots=True)
class AbandonJob:
    """Put the frames of a job that failed or was cancelled aside; its tiles stay."""

    job: JobId


@dataclass(frozen=True, slots=True)
class ForgetJob:
    """Nobody can ask for this job any more: delete its picture and what is known of it.

    ``reason`` says to those who follow it why.
    """

    job: JobId
    reason: str = ""


@dataclass(frozen=True, slots=True)
class JobChanged:
    """A person following the job would see something new."""

    job: JobId


@dataclass(frozen=True, slots=True)
class NoteFidelity:
    """More is known of the job's fidelity: write it beside the picture, if there is one."""

    job: JobId


@dataclass(frozen=True, slots=True)
class AnswerSubmit:
    """Tell the client its job; ``existing`` if the same submit had made it before."""

    reply: int
    job: JobId
    existing: bool


@dataclass(frozen=True, slots=True)
class RefuseSubmit:
    """Tell the client why there is no job."""

    reply: int
    message: str


Action: TypeAlias = (
    SendLease
    | SendKeep
    | SendCut
    | SendDrop
    | SendAccepted
    | CloseConnection
    | RevokeGrants
    | DiscardTile
    | BeginFrame
    | JoinLight
    | AddTile
    | CompareTiles
    | FinishFrame
    | DiscardTiles
    | DiscardResult
    | JobDone
    | AbandonJob
    | ForgetJob
    | JobChanged
    | NoteFidelity
    | AnswerSubmit
    | RefuseSubmit
)
