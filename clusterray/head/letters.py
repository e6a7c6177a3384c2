"""What the other threads of the head put into the task manager's inbox. Frozen values.

A farm event goes in as it is; a letter carries what the farm need not know.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from PIL import Image

from clusterray.core.events import Event, NodeJoined
from clusterray.core.model import (
    AttemptId,
    FileFormat,
    JobId,
    JobRequest,
    LightKind,
    Rect,
    SceneId,
)
from clusterray.head.tokens import TokenRecord
from clusterray.head.uploads import Expected
from clusterray.head.views import FarmView, NodeCard
from clusterray.povray.spec import RenderSpec
from clusterray.wire.protocol import (
    Cancel,
    Delete,
    Fetch,
    Follow,
    Forgive,
    ListJobs,
    ListNodes,
    Logs,
    Message,
    Pause,
    PhaseSeconds,
    Requeue,
    Resume,
    SetPriority,
    Show,
)


@dataclass(frozen=True, slots=True)
class PartialPlan:
    """What is there of a picture: the tiles to put together, for the request of a client."""

    request: int
    job: JobId
    name: str
    region: Rect
    kind: FileFormat
    tiles: tuple[tuple[Path, Rect], ...]


class Outlet(Protocol):
    """The task manager's end of a connection: it only ever leaves things there."""

    def post(self, message: Message, expected: Expected | None = None) -> None:
        """Have the connection's thread send ``message``; ``expected`` comes with a lease."""

    def plan(self, plan: PartialPlan) -> None:
        """Have the connection's thread put a partial picture together and offer it."""

    def leave(self, reason: str, *, retry: bool = False) -> None:
        """Have the connection's thread say BYE and close; ``retry``: the peer may come again."""


@dataclass(frozen=True, slots=True)
class ClientOpened:
    """A client has shown its token."""

    conn: int
    outlet: Outlet
    token: str


@dataclass(frozen=True, slots=True)
class NodeOpened:
    """A node has shown its token; ``joined`` is for the farm, ``card`` for people."""

    conn: int
    outlet: Outlet
    token: str
    joined: NodeJoined
    card: NodeCard


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection has ended, the last letter of its thread; ``silent`` as in LinkClosed."""

    conn: int
    reason: str
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Spent:
    """Where the time of an attempt went, the radiosity samples it had to add, the light it used.

    ``used`` None: it has not said yet.
    """

    attempt: AttemptId
    seconds: PhaseSeconds
    gathers: int = 0
    used: frozenset[LightKind] | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What POV-Ray said in an attempt, the end of it."""

    attempt: AttemptId
    text: str


@dataclass(frozen=True, slots=True)
class Glimpsed:
    """A node shows blocks of an attempt: a small picture of the frame's pixels ``rect``."""

    conn: int
    attempt: AttemptId
    rect: Rect
    picture: Image.Image


@dataclass(frozen=True, slots=True)
class ScoutTold:
    """A node tells of its scout; ``picture`` is None where there is none that can be shown.

    The rest is as in the message.
    """

    conn: int
    attempt: AttemptId
    picture: Image.Image | None
    columns: int
    costs: tuple[float, ...]
    parse_s: float
    reason: str


Order: TypeAlias = Cancel | Pause | Resume | Requeue | SetPriority | Delete
Question: TypeAlias = Order | Follow | Fetch | Logs | ListJobs | ListNodes | Forgive | Show


@dataclass(frozen=True, slots=True)
class Asked:
    """A client asks; the answer goes to its outlet. ``by`` is its name for people.

    ``taken`` is called when the question's turn has come.
    """

    conn: int
    question: Question
    by: str
    who: TokenRecord
    taken: Callable[[], None]


@dataclass(frozen=True, slots=True)
class NewJob:
    """A client submits; its scene is stored and held, its spec checked."""

    conn: int
    request_id: int
    request: JobRequest
    spec: RenderSpec


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep this scene of ``size`` bytes while the connection stands.

    ``answer`` gets "" once that is so, or why there is no room for it.
    """

    conn: int
    scene: SceneId
    size: int
    answer: queue.SimpleQueue[str]


@dataclass(frozen=True, slots=True)
class Looked:
    """Somebody looks at the status page; ``answer`` gets what it is to show."""

    answer: queue.SimpleQueue[FarmView]


@dataclass(frozen=True, slots=True)
class PictureWritten:
    """The stitcher has written a frame's picture; ``run`` as in BeginFrame."""

    job: JobId
    frame: int
    path: Path
    size: int
    sha256: str
    run: int = 0


@dataclass(frozen=True, slots=True)
class TokenRevoked:
    """Connections that came with this token must end."""

    token: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The head is going down."""


Letter: TypeAlias = (
    Event
    | ClientOpened
    | NodeOpened
    | Closed
    | Spent
    | Said
    | Glimpsed
    | ScoutTold
    | Asked
    | NewJob
    | Hold
    | Looked
    | PictureWritten
    | TokenRevoked
    | Stop
)
