"""One connection to the head, from HELLO to its end; the "main" thread runs it.

Hands the head's words to node.holdings and lends it the link to report through. What the node
holds outlives the session. Knows nothing of tokens' files, of waiting for the next try, or of
POV-Ray.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from clusterray import __version__
from clusterray.core.model import PovrayClass
from clusterray.node.fitness import Fitness
from clusterray.node.held import Names
from clusterray.node.holdings import POVRAY_CHANGED, Holdings
from clusterray.node.stop import StopFlag
from clusterray.wire.link import Link, LinkClosed
from clusterray.wire.protocol import (
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    Accepted,
    AnyMessage,
    Bye,
    Cut,
    Draining,
    Drop,
    Hello,
    Keep,
    Lease,
    Message,
    NodeInfo,
    ProtocolError,
    Welcome,
)
from clusterray.wire.trust import JoinToken

log = logging.getLogger(__name__)

WELCOME_S = 16.0
"""How long the head may take to answer HELLO."""
FLUSH_S = 1.0
"""How long the last words may take to leave."""
_RECEIVE_S = 0.25
"""Bounds how long a signal goes unseen: its handler must not take the link's lock to wake it."""
_LEAST_HEARTBEAT_S = 0.1
_TEXT_CHARACTERS = 8192


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is and what it can do: the part of HELLO that seldom changes."""

    uuid: str
    name: str
    cores: int
    threads: int
    memory_bytes: int
    povray: PovrayClass
    canary_cpu_s: float
    """What the canary took a thread, 0 if it was not rendered."""
    instance: str
    """Made anew at each start, so that the head can tell a copy of this node from this one."""

    def hello(self, secret: str, names: Names, unfit: str) -> Hello:
        """Give the first message of a connection."""
        node = NodeInfo(
            cores=self.cores,
            threads=self.threads,
            memory_bytes=self.memory_bytes,
            povray_version=self.povray.version,
            povray_build=self.povray.build,
            rendering=names.rendering,
            rendered=names.rendered,
            canary_sha256=self.povray.canary or None,
            includes_sha256=self.povray.includes or None,
            canary=self.povray.pixels,
            unfit=unfit[:_TEXT_CHARACTERS],
            kept=names.kept,
            canary_cpu_s=self.canary_cpu_s,
        )
        protocol = (PROTOCOL_MIN, PROTOCOL_MAX)
        name, version = self.name, __version__
        return Hello("node", protocol, secret, self.uuid, name, version, node, self.instance)


class Refused(Exception):
    """The head does not want this node as it is; the text is the head's reason."""


class Lost(Exception):
    """The connection ended, and why; the node comes back."""


class Drain:
    """How far the leaving of a node is; lives as long as the daemon, over all its sessions."""

    def __init__(self, stop: StopFlag, holdings: Holdings, drain_s: float) -> None:
        self._stop = stop
        self._holdings = holdings
        self._drain_s = drain_s
        self._until: float | None = None

    @property
    def begun(self) -> bool:
        """Tell whether the node is draining."""
        return self._until is not None

    def over(self) -> bool:
        """Begin to drain once that is asked for; tell whether the node is to leave now."""
        if self._stop.at_once:
            return True
        if not self._stop.draining:
            return False
        if self._until is None:
            log.info("draining: at most %.0f s for the bands in work", self._drain_s)
            self._until = time.monotonic() + self._drain_s
            # Before anything is handed back, or the head would lease it to this node again.
            self._holdings.tell(Draining())
            self._holdings.drain()
        return self._holdings.empty or time.monotonic() >= self._until

    def left_s(self) -> float:
        """Give the seconds until the drain is over at the latest; a minute while none has begun."""
        return 60.0 if self._until is None else max(0.0, self._until - time.monotonic())


class Session:
    """A connected link, its HELLO not yet sent."""

    def __init__(
        self,
        link: Link,
        token: JoinToken,
        identity: Identity,
        holdings: Holdings,
        fitness: Fitness,
        stop: StopFlag,
        drain: Drain,
    ) -> None:
        self._fitness = fitness
        self._link = link
        self._token = token
        self._identity = identity
        self._holdings = holdings
        self._stop = stop
        self._drain = drain
        self.joined = False
        """Whether the head has taken this node in."""

    def run(self) -> None:
        """Talk until the node is to leave, and say BYE then.

        Raises Refused if the head does not take this node, Lost if the connection ends.
        """
        try:
            welcome = self._greet()
            if welcome is not None:
                self.joined = True
                self._serve(welcome)
        except LinkClosed as closed:
            raise Lost(closed.reason) from None
        except ProtocolError as error:
            raise Lost(f"the head said something that no head says: {error}") from None
        finally:
            self._holdings.detach()
            self._link.close()

    def _greet(self) -> Welcome | None:
        """Say HELLO and wait for WELCOME; None if the node is to leave meanwhile."""
        self._link.trust_peer()
        unfit = self._fitness.for_hello()
        self._link.send(self._identity.hello(self._token.secret, self._holdings.names(), unfit))
        until = time.monotonic() + WELCOME_S
        while not self._drain.over():
            message = self._link.receive(min(_RECEIVE_S, self._drain.left_s()))
            if isinstance(message, Welcome):
                return message
            if isinstance(message, Bye):
                raise _farewell(message)
            if message is not None:
                raise ProtocolError(f"{type(message).__name__} came before Welcome")
            if time.monotonic() >= until:
                raise Lost(f"no answer to HELLO in {WELCOME_S:.0f} s")
        return None

    def _serve(self, welcome: Welcome) -> None:
        self._link.heartbeat_s = max(welcome.heartbeat_s, _LEAST_HEARTBEAT_S)
        self._link.silent_s = max(welcome.silent_s, self._link.heartbeat_s)
        log.info("joined the farm of head %s (version %s)", self._link.peer, welcome.version)
        token = self._token
        self._holdings.attach(
            welcome.farm, token.host, welcome.ftp_port, self._report, token.fingerprint
        )
        self._fitness.attached()
        if self._drain.begun:
            self._link.send(Draining())
        while not self._drain.over():
            if self._holdings.broken:
                raise Lost("a thread of this node ended by a fault of ours")
            if self._holdings.povray_changed and not self._drain.begun:
                self._link.send(Bye(POVRAY_CHANGED))
                self._link.flush(FLUSH_S)
                raise Lost(POVRAY_CHANGED)
            message = self._link.receive(min(_RECEIVE_S, self._drain.left_s()))
            if message is not None:
                self._obey(message)
        self._leave()

    def _obey(self, message: AnyMessage) -> None:
        match message:
            case Lease():
                self._holdings.lease(message)
            case Keep():
                self._holdings.keep(message)
            case Cut():
                self._holdings.cut(message)
            case Drop():
                self._holdings.drop(message.attempt, message.reason)
            case Accepted():
                self._holdings.accepted(message.attempt)
            case Bye():
                raise _farewell(message)
            case _:
                raise ProtocolError(f"{type(message).__name__} is nothing that a head sends")

    def _report(self, message: Message) -> bool:
        """Send for the other threads, and let "main" look at what has changed."""
        try:
            self._link.send(message)
            if self._drain.begun:
                self._link.wake()
        except LinkClosed:
            return False
        return True

    def _leave(self) -> None:
        reason = "stopped at once" if self._stop.at_once else "drained"
        self._holdings.hand_back_all(f"the node was {reason}")
        self._link.send(Bye(f"the node was {reason}"))
        self._link.flush(FLUSH_S)


def _farewell(bye: Bye) -> Exception:
    return Lost(f"the head said: {bye.reason}") if bye.retry else Refused(bye.reason)
