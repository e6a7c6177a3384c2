"""What the conversations with nodes and clients share.

Runs on the connection's own thread; the task manager only leaves messages in its outbox, by the
two methods of ``letters.Outlet``. Must not touch the farm.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clusterray.head.doorkeeper import Doorkeeper
from clusterray.head.ftp_server import FtpServer
from clusterray.head.keeper import Keeper
from clusterray.head.letters import PartialPlan
from clusterray.head.scene_store import SceneStore
from clusterray.head.settings import HeadSettings
from clusterray.head.task_manager import TaskManager
from clusterray.head.tokens import TokenRecord, TokenStore
from clusterray.head.uploads import Expected
from clusterray.wire import protocol as msg
from clusterray.wire.link import Link, LinkClosed
from clusterray.wire.protocol import AnyMessage, Hello, Message, ProtocolError


@dataclass(frozen=True, slots=True)
class Services:
    """What a connection may use of the head; all of it is safe on any thread."""

    settings: HeadSettings
    farm_id: str
    ftp_port: int
    http_port: int
    task_manager: TaskManager
    keeper: Keeper
    tokens: TokenStore
    ftp: FtpServer
    scenes: SceneStore
    partials: Path
    doorkeeper: Doorkeeper
    tls: ssl.SSLContext | None


class Refusal(Exception):
    """The peer is told why, and the connection closed; ``retry``: it may come back unchanged."""

    def __init__(self, reason: str, *, retry: bool) -> None:
        super().__init__(reason)
        self.retry = retry


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a peer said of itself, the token it showed, and the protocol that both speak."""

    hello: Hello
    record: TokenRecord
    protocol: int


class Conversation:
    """What node and client conversations share: the outlet that the task manager writes to."""

    role: ClassVar[str] = "peer"
    handlers: ClassVar[Mapping[type[Message], Callable[[Any, Any], None]]] = {}
    """What takes which message. Functions, not methods of the instance: those would hold it in a
    ring, and a conversation that has ended would stay in memory until Python looks for rings."""

    def __init__(self, number: int, link: Link, services: Services, card: Introduction) -> None:
        self._number = number
        self._link = link
        self._services = services
        self._hello = card.hello
        self._record = card.record
        self._protocol = card.protocol
        self._orders: deque[tuple[Message, Expected | None] | PartialPlan] = deque()
        self._leaving: Refusal | None = None

    # ------------------------------------------------ called by the task-manager thread

    def post(self, message: Message, expected: Expected | None = None) -> None:
        """Leave a message to send; see letters.Outlet."""
        self._orders.append((message, expected))
        self._link.wake()

    def plan(self, plan: PartialPlan) -> None:
        """Leave a partial picture to make; see letters.Outlet."""
        self._orders.append(plan)
        self._link.wake()

    def leave(self, reason: str, *, retry: bool = False) -> None:
        """Ask the thread to say BYE and close; see letters.Outlet."""
        self._leaving = Refusal(reason, retry=retry)
        self._link.wake()

    # ------------------------------------------------ called by this connection's thread

    def run(self) -> None:
        """Talk until the link closes."""
        self._open()
        while True:
            self._send_orders()
            if self._leaving is not None:
                raise self._leaving
            message = self._link.receive(self._patience_s())
            if message is not None:
                self._take(message)

    def ended(self) -> None:
        """The link is closed; a last chance to post letters."""

    def _patience_s(self) -> float | None:
        """Tell for how long an order may lie there of which the link was not told."""
        return None

    def _open(self) -> None:
        raise NotImplementedError

    def _expect(self, message: Message, expected: Expected | None) -> None:
        """See an order before it is sent."""

    def _send_orders(self) -> None:
        while self._orders:
            order = self._orders.popleft()
            if isinstance(order, PartialPlan):
                self._make_partial(order)
                continue
            message, expected = order
            self._expect(message, expected)
            self._link.send(message)

    def _make_partial(self, plan: PartialPlan) -> None:
        raise NotImplementedError

    def _take(self, message: AnyMessage) -> None:
        if isinstance(message, msg.Bye):
            raise LinkClosed(f"said goodbye: {message.reason}")
        handler = self.handlers.get(type(message))
        if handler is None:
            raise ProtocolError(f"{type(message).__name__} is not for a {self.role} to say")
        handler(self, message)

    def _post(self, letter: Any) -> None:
        self._services.task_manager.post(letter)
