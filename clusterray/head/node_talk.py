"""The conversation with a node: its reports become events, its uploads go to the keeper.

Runs on the connection's own thread.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from PIL import Image

from clusterray.core import events as ev
from clusterray.core.bands import rest_of
from clusterray.core.model import AttemptId, NodeId, PovrayClass, ProbeFound, Rect
from clusterray.head.conversation import Conversation, Introduction, Refusal, Services
from clusterray.head.keeper import Upload
from clusterray.head.letters import Glimpsed, NodeOpened, Said, ScoutTold, Spent
from clusterray.head.uploads import Announced, Expected, arrived_whole, upload_user
from clusterray.head.views import NodeCard
from clusterray.images.glimpse import read_glimpse
from clusterray.images.tile import TileFault
from clusterray.wire import protocol as msg
from clusterray.wire.link import Link
from clusterray.wire.protocol import Message, NodeInfo

_log = logging.getLogger("clusterray.head.node_talk")
ACCEPTED_S = 0.5
"""A node that renders its next band is told so much later at most that a tile is accepted."""
MOST_GLIMPSES, GLIMPSES_S = 8, 2.0
"""So many pictures of blocks a node may show in so many seconds; what is more is forgotten."""


class NodeTalk(Conversation):
    """A node speaks; raises Refusal for one whose canary is not what it says."""

    role = "node"

    def __init__(self, number: int, link: Link, services: Services, card: Introduction) -> None:
        super().__init__(number, link, services, card)
        assert card.hello.node is not None
        self._povray = povray_class(card.hello.node)
        self._expected: dict[str, Expected] = {}
        self._announced: dict[str, Announced] = {}
        self._glimpsed_at: deque[float] = deque(maxlen=MOST_GLIMPSES)
        self._coming: dict[str, Upload] = {}

    def _open(self) -> None:
        info = self._hello.node
        assert info is not None
        joined = ev.NodeJoined(
            conn=self._number,
            node=NodeId(self._hello.uuid),
            name=self._hello.name,
            threads=info.threads,
            povray_class=self._povray,
            rendering=frozenset(AttemptId(held) for held in info.rendering),
            rendered=frozenset(AttemptId(held) for held in info.rendered),
            # A node that does not say it is told by where it comes from.
            instance=self._hello.instance or self._link.peer.rpartition(":")[0],
            place=self._link.peer,
            unfit=info.unfit,
            kept={AttemptId(held): _rect(keep) for held, keep in info.kept.items()},
            cuts=self._protocol >= msg.CUT_SINCE,
            canary_cpu_s=info.canary_cpu_s,
        )
        card = NodeCard(self._link.peer, self._hello.version, info.cores, info.memory_bytes)
        self._post(NodeOpened(self._number, self, self._record.id, joined, card))

    def post(self, message: Message, expected: Expected | None = None) -> None:
        """Leave a message to send; see letters.Outlet.

        That a tile is accepted goes with what else there is to say, while the node has another
        band or another tile on its way: its thread would be woken for this alone.
        """
        more_to_say = self._expected or len(self._coming) > 1
        if isinstance(message, msg.Accepted) and more_to_say and message.attempt in self._coming:
            self._orders.append((message, expected))
        else:
            super().post(message, expected)

    def _patience_s(self) -> float | None:
        return ACCEPTED_S if self._coming else None

    def _expect(self, message: Message, expected: Expected | None) -> None:
        if isinstance(message, msg.Lease | msg.Keep) and expected is not None:
            self._expected[message.attempt] = expected
            if (
                isinstance(message, msg.Lease)
                and message.scout
                and self._protocol < msg.SCOUT_SINCE
            ):
                reason = "this node's ClusterRay is too old for scouts"
                attempt = AttemptId(message.attempt)
                self._post(ev.Scouted(self._number, attempt, None, 0.0, reason))
        elif isinstance(message, msg.Drop | msg.Accepted):
            self._forget(message.attempt)
            self._coming.pop(message.attempt, None)

    def _forget(self, attempt: str) -> None:
        self._expected.pop(attempt, None)
        self._announced.pop(attempt, None)

    def _about(self, attempt: str) -> AttemptId:
        """Let the farm hear what came of an upload before anything else of its attempt."""
        upload = self._coming.pop(attempt, None)
        if upload is not None:
            upload.settle()
        return AttemptId(attempt)

    def _progress(self, message: msg.Progress) -> None:
        self._post(
            ev.AttemptProgress(
                self._number,
                self._about(message.attempt),
                message.phase,
                message.done,
                message.moves,
                message.place,
            )
        )

    def _cut_to(self, message: msg.CutTo) -> None:
        """From now on the node's tile is of what it keeps, so what is expected of it is, too."""
        attempt, keep = AttemptId(message.attempt), _rect(message.keep)
        expected = self._expected.get(attempt)
        if expected is not None and rest_of(expected.rect, keep) is not None:
            self._expected[attempt] = replace(expected, rect=keep)
        self._post(ev.AttemptCut(self._number, attempt, keep, message.parses))

    def _uploading(self, message: msg.Uploading) -> None:
        attempt = self._about(message.attempt)
        self._announced[attempt] = Announced(message.size, message.sha256)
        if attempt in self._expected:
            self._services.ftp.announced(upload_user(attempt), message.size)
        self._post(Spent(attempt, message.seconds))
        self._post(ev.AttemptRendered(self._number, attempt, message.size, message.sha256))

    def _done(self, message: msg.Done) -> None:
        attempt = self._about(message.attempt)
        self._post(Spent(attempt, message.seconds, message.gathers, frozenset(message.used)))
        self._post(Said(attempt, message.text))
        expected, announced = self._expected.get(attempt), self._announced.get(attempt)
        if expected is None or announced is None:
            # Not one of this connection's: the farm answers DROP, or ACCEPTED once more.
            self._post(ev.AttemptRendered(self._number, attempt))
            return
        self._forget(attempt)
        self._coming[attempt] = self._services.keeper.take_in(attempt, expected, announced)

    def _failed(self, message: msg.Failed) -> None:
        attempt = self._about(message.attempt)
        self._forget(attempt)
        self._post(Said(attempt, message.text))
        self._post(
            ev.AttemptFailed(
                self._number,
                attempt,
                message.fault,
                message.message,
                message.file,
                message.line,
                message.text,
            )
        )

    def _handback(self, message: msg.HandBack) -> None:
        attempt = self._about(message.attempt)
        self._forget(attempt)
        self._post(ev.AttemptHandedBack(self._number, attempt, message.reason))

    def _probed(self, message: msg.Probed) -> None:
        view = message.found
        found = None
        if view is not None:
            differing = min(view.differing, view.pixels)
            found = ProbeFound(view.pixels, differing, view.largest, view.levels)
        self._post(ev.Probed(self._number, AttemptId(message.attempt), found, message.reason))

    def _scouted(self, message: msg.Scouted) -> None:
        picture = self._seen(message.picture, message.attempt) if message.picture else None
        self._post(
            ScoutTold(
                self._number,
                AttemptId(message.attempt),
                picture,
                message.columns,
                tuple(message.costs),
                message.parse_s,
                message.reason,
            )
        )

    def _blocks(self, message: msg.Blocks) -> None:
        now, shown_at = time.monotonic(), self._glimpsed_at
        if len(shown_at) == MOST_GLIMPSES and now - shown_at[0] < GLIMPSES_S:
            return
        shown_at.append(now)
        picture = self._seen(message.picture, message.attempt)
        x0, y0, x1, y1 = message.rect
        if picture is not None and x0 < x1 and y0 < y1:
            self._post(
                Glimpsed(self._number, AttemptId(message.attempt), Rect(x0, y0, x1, y1), picture)
            )

    def _seen(self, glimpse: bytes, attempt: str) -> Image.Image | None:
        try:
            return read_glimpse(glimpse)
        except TileFault as fault:
            _log.warning("what %s shows of %s: %s", self._hello.name, attempt, fault)
            return None

    def _draining(self, _: msg.Draining) -> None:
        self._post(ev.NodeDraining(self._number))

    def _unfit(self, message: msg.Unfit) -> None:
        self._post(ev.NodeUnfit(self._number, message.reason))

    handlers: ClassVar[Mapping[type[Message], Callable[[Any, Any], None]]] = {
        msg.Progress: _progress,
        msg.CutTo: _cut_to,
        msg.Uploading: _uploading,
        msg.Done: _done,
        msg.Failed: _failed,
        msg.HandBack: _handback,
        msg.Probed: _probed,
        msg.Scouted: _scouted,
        msg.Blocks: _blocks,
        msg.Draining: _draining,
        msg.Unfit: _unfit,
    }

    def ended(self) -> None:
        """A tile that lies whole at the head counts though its node did not live to say so."""
        for attempt, announced in list(self._announced.items()):
            expected = self._expected.get(attempt)
            if expected is not None and arrived_whole(expected.upload, announced, _no_tick):
                taken = self._services.keeper.take_in(AttemptId(attempt), expected, announced)
                self._coming[attempt] = taken
        # That the connection is closed is the last that the farm hears of it.
        for upload in self._coming.values():
            upload.settle()


def _rect(said: msg.RectTuple) -> Rect:
    """Give a rectangle that a node named; raises ProtocolError if it is none."""
    try:
        return Rect(*said)
    except ValueError as error:
        raise msg.ProtocolError(str(error)) from None


def povray_class(info: NodeInfo) -> PovrayClass:
    """Give the class of a node's POV-Ray; raises Refusal if its canary is not what it says."""
    said = info.canary_sha256 or ""
    if info.canary and hashlib.sha256(info.canary).hexdigest() != said:
        raise Refusal("the pixels of its canary are not those of its hash", retry=False)
    return PovrayClass(
        info.povray_version,
        info.povray_build,
        said,
        info.includes_sha256 or "",
        info.canary,
    )


def _no_tick() -> None:
    """Stand in for heartbeats once the link is closed."""
