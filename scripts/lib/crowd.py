"""Make-believe nodes by the hundred, over real sockets, driven by one thread: a load for a head.

Each says HELLO, takes a lease, and answers at once or at its pace as a real node whose tile lies at
the head already; it renders nothing. Who makes a crowd says how the tile comes there. Knows the
wire, and nothing of the head.
"""

from __future__ import annotations

import heapq
import itertools
import random
import selectors
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from clusterray.wire import protocol as msg
from clusterray.wire.link import connect
from clusterray.wire.protocol import FrameDecoder, Message, encode

BEAT_S = 4.0
PROGRESS_S = 0.5
"""A real node tells no more often how far it is."""
WAIT_S = 60.0
"""So long nothing at all may come before a crowd gives the head up."""
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Way:
    """Where the head is, and the secret it wants; ``fingerprint`` "" for one without TLS."""

    host: str
    port: int
    secret: str
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """What each attempt leaves: ``place`` puts it where the head looks for it, by attempt."""

    size: int
    sha256: str
    place: Callable[[str], object]


class CrowdFault(Exception):
    """The head did not do what a crowd counts on."""


@dataclass(slots=True)
class _Node:
    name: str
    sock: socket.socket
    decoder: FrameDecoder = field(default_factory=lambda: FrameDecoder(msg.MAX_FRAME_BYTES))
    unsent: bytes = b""
    sent_at: float = 0.0
    welcome: bool = False
    leases: dict[str, msg.Lease] = field(default_factory=dict)
    done_at: float | None = None
    next_at: float = 0.0


class Crowd:
    """``count`` nodes at one head; close it in the end.

    ``every_s`` is how long a node holds a band before it is done, and tells how far it is
    meanwhile; None: it is done at once. ``text`` is what POV-Ray said. Counted are ``leased``
    bands, ``accepted`` tiles and ``dropped`` attempts; ``waits`` are the seconds from a node's
    being done to its next lease.
    """

    def __init__(
        self, way: Way, count: int, tile: Tile, *, every_s: float | None = None, text: str = ""
    ) -> None:
        self.leased: Counter[tuple[str, str]] = Counter()
        self.accepted = 0
        self.dropped = 0
        self.waits: list[float] = []
        self._way = way
        self._tile = tile
        self._every_s = every_s
        self._text = text
        self._selector = selectors.DefaultSelector()
        self._nodes: list[_Node] = []
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._random = random.Random(count)
        try:
            for number in range(count):
                self._add(f"node-{number}")
                # The first ones would fall silent while the last ones come.
                self._turn(0.0)
            self.run(lambda: all(node.welcome for node in self._nodes))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Break all connections, as a power cut would."""
        for node in self._nodes:
            node.sock.close()
        self._selector.close()

    def pace(self, every_s: float | None) -> None:
        """Let nodes be done so long after each lease from now on."""
        self._every_s = every_s
        self.waits.clear()

    # ---------------------------------------------------------------- the loop

    def run(self, over: Callable[[], bool], most_s: float = WAIT_S) -> None:
        """Drive the nodes until ``over``; raises CrowdFault if the head is idle or takes too long.

        ``over`` is asked after each portion of messages.
        """
        until = time.monotonic() + most_s
        while not over():
            now = time.monotonic()
            if now > until:
                raise CrowdFault(f"it was not over after {most_s:g} s: {self.accepted} accepted")
            self._turn(until - now)

    def run_for(self, seconds: float) -> None:
        """Drive the nodes for so long."""
        until = time.monotonic() + seconds
        self._later(until, lambda: None)
        self.run(lambda: time.monotonic() >= until, seconds + WAIT_S)

    def _turn(self, most_s: float) -> None:
        """Hear what has come, wait for it if need be, and do what is due."""
        wait_s = min(most_s, self._due[0][0] - time.monotonic()) if self._due else most_s
        for key, _ in self._selector.select(max(0.0, wait_s)):
            self._hear(key.data)
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()

    def _later(self, at: float, step: Callable[[], None]) -> None:
        heapq.heappush(self._due, (at, next(self._order), step))

    # ---------------------------------------------------------------- a node

    def _add(self, name: str) -> None:
        way = self._way
        node = _Node(name, connect(way.host, way.port, WAIT_S, way.fingerprint))
        self._nodes.append(node)
        node.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        node.sock.setblocking(False)
        self._selector.register(node.sock, selectors.EVENT_READ, node)
        info = msg.NodeInfo(1, 1, 1 << 30, "3.7.0.10", "make-believe")
        versions = (msg.PROTOCOL_MIN, msg.PROTOCOL_MAX)
        self._say(node, msg.Hello("node", versions, way.secret, name, name, "0", info))
        self._beat(node)

    def _beat(self, node: _Node) -> None:
        now = time.monotonic()
        if now - node.sent_at >= BEAT_S:
            self._say(node, msg.Beat())
        self._later(node.sent_at + BEAT_S, lambda: self._beat(node))

    def _say(self, node: _Node, *messages: Message) -> None:
        data = node.unsent + b"".join(map(encode, messages))
        count = 0
        with suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            count = node.sock.send(data)
        node.unsent = data[count:]
        node.sent_at = time.monotonic()
        if node.unsent:
            self._later(node.sent_at + 0.001, lambda: self._say(node))

    def _hear(self, node: _Node) -> None:
        while True:
            try:
                data = node.sock.recv(_READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            if not data:
                raise CrowdFault(f"the head closed the connection of {node.name}")
            for message in node.decoder.feed(data):
                self._take(node, message)
            if not (isinstance(node.sock, ssl.SSLSocket) and node.sock.pending()):
                return

    def _take(self, node: _Node, message: object) -> None:
        match message:
            case msg.Lease():
                self._take_lease(node, message)
            case msg.Accepted():
                self.accepted += 1
            case msg.Drop(attempt=attempt):
                self.dropped += 1
                node.leases.pop(attempt, None)
            case msg.Welcome():
                node.welcome = True
            case msg.Beat():
                pass
            case _:
                raise CrowdFault(f"{node.name} was told {message}")

    def _take_lease(self, node: _Node, lease: msg.Lease) -> None:
        now = time.monotonic()
        self.leased[lease.job, lease.band] += 1
        node.leases[lease.attempt] = lease
        if node.done_at is not None:
            self.waits.append(now - node.done_at)
            node.done_at = None
        if self._every_s is None:
            self._finish(node, lease.attempt)
            return
        if node.next_at < now - self._every_s:
            # Its first band at this pace: each node begins at a moment of its own.
            node.next_at = now - self._random.random() * self._every_s
        node.next_at += self._every_s
        self._later(node.next_at, lambda: self._finish(node, lease.attempt))
        self._later(now + PROGRESS_S, lambda: self._progress(node, lease, 1))

    def _progress(self, node: _Node, lease: msg.Lease, count: int) -> None:
        if lease.attempt not in node.leases:
            return
        self._say(node, msg.Progress(lease.attempt, "rendering", count, 1024))
        self._later(time.monotonic() + PROGRESS_S, lambda: self._progress(node, lease, count + 1))

    def _finish(self, node: _Node, attempt: str) -> None:
        if node.leases.pop(attempt, None) is None:
            return
        tile = self._tile
        tile.place(attempt)
        node.done_at = time.monotonic()
        seconds = msg.PhaseSeconds(render=0.1)
        self._say(
            node,
            msg.Uploading(attempt, tile.size, tile.sha256, seconds),
            msg.Done(attempt, seconds, text=self._text),
        )
