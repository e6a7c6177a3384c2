"""One submitter's conversation with the head: connect, ask, be answered, come back.

The calling thread (one only) asks and waits; the thread "link" owns the socket, so heartbeats flow
whatever the caller is busy with: hashing, packing, an FTP transfer. Knows the messages, not what
they are asked for.
"""

from __future__ import annotations

import contextlib
import getpass
import itertools
import math
import os
import queue
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from clusterray import __version__
from clusterray.client.text import plain
from clusterray.core.errors import FAULT_BY_EXIT_CODE, ClusterRayError, NoHead, SceneFault
from clusterray.wire import protocol
from clusterray.wire.link import Link, LinkClosed, connect
from clusterray.wire.staging import FtpSession
from clusterray.wire.tls import Untrusted
from clusterray.wire.trust import JoinToken

FIRST_CONTACT_S = 10.0
"""How long a command waits for a head that it has not yet spoken to."""
_DIAL_S = 5.0
_GOODBYE_S = 0.3
_OUTBOX_BYTES = 128 << 20
"""A manifest of the most files with the longest names goes out in one burst."""
_LOOK_EVERY_S = 0.5
_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)

Answer = TypeVar("Answer", bound=protocol.Message)


class HeadLost(Exception):
    """The connection to the head ended, and why; the head may be back soon."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Ended:
    """What the link thread puts last into the inbox of its connection."""

    reason: str
    retry: bool


def owner_name() -> str:
    """Give ``user@host`` of this process, for people to read."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return plain(f"{user}@{socket.gethostname()}")[:255]


class HeadLink:
    """A head to ask; ``find_token`` is called again before each connection.

    ``say`` takes one sentence for the person; ``look`` is called every half second of waiting and
    may raise what makes the waiting pointless. ``connections`` counts the welcomes so
    far. Use as a context manager: leaving says good-bye.
    """

    def __init__(
        self,
        find_token: Callable[[], JoinToken],
        *,
        say: Callable[[str], None] = lambda sentence: None,
        look: Callable[[], None] = lambda: None,
        first_contact_s: float = FIRST_CONTACT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find_token = find_token
        self._say = say
        self._look = look
        self._first_contact_s = first_contact_s
        self._clock = clock
        self._uuid = uuid.uuid4().hex
        self._requests = itertools.count(1)
        self._connection: _Connection | None = None
        self.host = ""
        self._fingerprint = ""
        self.connections = 0

    def __enter__(self) -> HeadLink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------ coming and going

    def open(self) -> None:
        """Connect for the first time.

        Raises NoHead at once when the token is missing, what answers is not the token's head, or
        the head refuses it, and after ``first_contact_s`` when no head answers.
        """
        give_up_at = self._clock() + self._first_contact_s
        for pause_s in _pauses():
            token = self._find_token()
            try:
                return self._dial(token, give_up_at)
            except (OSError, HeadLost) as error:
                left_s = give_up_at - self._clock()
                if left_s <= 0:
                    raise NoHead(self._away_sentence(token, _reason(error))) from None
            self._pause(min(pause_s, left_s))
        raise AssertionError("the pauses never end")

    def reopen(self, job: str | None = None) -> None:
        """Connect again, for ever; says once that the head is lost and once that it is back.

        Raises NoHead only where the head answers and refuses. ``job`` is what goes on meanwhile.
        """
        self._drop_connection()
        on = f"; job {job} goes on" if job else ""
        self._say(f"lost the head at {self.host}, reconnecting{on}")
        said = ""
        for pause_s in _pauses():
            # A token file being rewritten by a head that starts again is no reason to give up, nor
            # is somebody else who answers in its place for a while.
            try:
                with contextlib.suppress(OSError, HeadLost, _TokenAway):
                    self._dial(self._token_for_reopen(), self._clock() + self._first_contact_s)
                    self._say("the head is back")
                    return
            except Untrusted as fault:
                if said != fault.reason:
                    self._say(said := fault.reason)
            self._pause(pause_s)

    def close(self) -> None:
        """Say good-bye if connected, and end the link thread; harmless when repeated."""
        if self._connection is not None:
            self._connection.send_bye("done")
        self._drop_connection()

    def ftp_session(self) -> FtpSession:
        """Make a session with the head's FTP server; host and pin are the token's."""
        return FtpSession(self.host, self._connected().welcome.ftp_port, self._fingerprint)

    # ------------------------------------------------------------ asking

    def next_request(self) -> int:
        """Give a request number not used before on this link."""
        return next(self._requests)

    def send(self, message: protocol.Message) -> None:
        """Send without waiting for an answer; raises HeadLost."""
        self._connected().send(message)

    def ask(self, message: protocol.Message, request: int, *answer: type[Answer]) -> Answer:
        """Send ``message`` and wait for one of the kinds of ``answer`` to ``request``.

        Raises the fault the head names in a Refused, HeadLost, or NoHead where the head ends the
        connection for good.
        """
        self.send(message)
        return self.wait(request, *answer)

    def wait(self, request: int, *answer: type[Answer]) -> Answer:
        """Wait for an ``answer`` to ``request``; raises as ``ask`` does."""
        found = self.wait_within(request, None, *answer)
        if found is None:
            raise AssertionError("a wait without an end ended empty")
        return found

    def wait_within(
        self, request: int, timeout_s: float | None, *answer: type[Answer]
    ) -> Answer | None:
        """Wait at most ``timeout_s`` for an ``answer`` to ``request``; None if it did not come.

        Answers to other requests are kept for those who wait for them later.
        """
        message = self._take(request, timeout_s)
        if message is None:
            return None
        if isinstance(message, protocol.Refused):
            raise fault_of(message)
        if not isinstance(message, answer):
            due = " or ".join(kind.__name__ for kind in answer)
            raise HeadLost(f"the head answered {type(message).__name__} where {due} was due")
        return message

    # ------------------------------------------------------------ within

    def _take(self, request: int, timeout_s: float | None) -> protocol.AnyMessage | None:
        give_up_at = math.inf if timeout_s is None else self._clock() + timeout_s
        while True:
            left_s = max(0.0, give_up_at - self._clock())
            message = self._connected().take(request, min(left_s, _LOOK_EVERY_S))
            if message is not None or left_s <= _LOOK_EVERY_S:
                return message
            self._look()

    def _pause(self, seconds: float) -> None:
        self._look()
        time.sleep(seconds)

    def _connected(self) -> _Connection:
        if self._connection is None:
            raise HeadLost("not connected")
        return self._connection

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _token_for_reopen(self) -> JoinToken:
        try:
            return self._find_token()
        except NoHead as fault:
            raise _TokenAway(str(fault)) from None

    def _dial(self, token: JoinToken, give_up_at: float) -> None:
        if token.role == "node":
            raise NoHead(
                "cannot reach a head: the token is a node's; "
                "submitting needs the head's submit.token or admin.token"
            )
        self.host, self._fingerprint = token.host, token.fingerprint
        wait_s = _within(give_up_at - self._clock())
        sock = connect(token.host, token.port, wait_s, token.fingerprint)
        connection = _Connection(Link(sock, outbox_bytes=_OUTBOX_BYTES))
        try:
            connection.greet(self._hello(token), _within(give_up_at - self._clock()))
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self.connections += 1

    def _hello(self, token: JoinToken) -> protocol.Hello:
        return protocol.Hello(
            role=token.role,
            protocol=(protocol.PROTOCOL_MIN, protocol.PROTOCOL_MAX),
            secret=token.secret,
            uuid=self._uuid,
            name=owner_name(),
            version=__version__,
        )

    def _away_sentence(self, token: JoinToken, reason: str) -> str:
        return (
            f"cannot reach a head: nobody answered at {token.host}:{token.port} "
            f"for {self._first_contact_s:g} s ({reason}); check that clusterray-server runs there, "
            "that the port is open, and that the token is of this head"
        )


class _TokenAway(Exception):
    """The token cannot be read now; it may be in a moment."""


class _Connection:
    """One connection: the link, the thread that owns it, and what has arrived.

    The thread only reads the link and puts into ``_inbox``; all else belongs to the caller.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._inbox: queue.SimpleQueue[protocol.AnyMessage | _Ended] = queue.SimpleQueue()
        self._waiting: dict[int, list[protocol.AnyMessage]] = {}
        self._welcome: protocol.Welcome | None = None
        self._ended: _Ended | None = None
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._read_link, name="link", daemon=True)
        self._thread.start()

    # -------- called by the link thread

    def _read_link(self) -> None:
        ended = _Ended("the connection ended", retry=True)
        try:
            ended = self._pump()
        except LinkClosed as closed:
            ended = _Ended(closed.reason, retry=True)
        except protocol.ProtocolError as error:
            ended = _Ended(f"what answers there is no ClusterRay head: {error}", retry=True)
        except OSError as error:
            ended = _Ended(error.strerror or str(error), retry=True)
        finally:
            self._link.close()
            self._inbox.put(ended)

    def _pump(self) -> _Ended:
        while not self._leaving.is_set():
            message = self._link.receive(None)
            if isinstance(message, protocol.Bye):
                return _Ended(message.reason, message.retry)
            if isinstance(message, protocol.Welcome):
                self._settle(message)
            if message is not None:
                self._inbox.put(message)
        self._link.flush(_GOODBYE_S)
        return _Ended("we left", retry=True)

    def _settle(self, welcome: protocol.Welcome) -> None:
        self._link.trust_peer()
        self._link.heartbeat_s = welcome.heartbeat_s or self._link.heartbeat_s
        self._link.silent_s = welcome.silent_s or self._link.silent_s

    # -------- called by the caller's thread

    @property
    def welcome(self) -> protocol.Welcome:
        """The head's answer to HELLO."""
        if self._welcome is None:
            raise HeadLost("not connected")
        return self._welcome

    def greet(self, hello: protocol.Hello, timeout_s: float) -> None:
        """Say HELLO and wait for WELCOME; raises NoHead, HeadLost."""
        self.send(hello)
        message = self._next(timeout_s)
        if message is None:
            raise HeadLost("connected, but it did not answer")
        if not isinstance(message, protocol.Welcome):
            raise HeadLost("what answers there is no ClusterRay head")
        self._welcome = message

    def send(self, message: protocol.Message) -> None:
        """Put ``message`` into the outbox; raises HeadLost or NoHead if the connection ended."""
        try:
            self._link.send(message)
        except LinkClosed:
            self._drain_to_the_end()
            raise HeadLost("the connection ended") from None

    def send_bye(self, reason: str) -> None:
        """Tell the head that we leave, if it still listens."""
        with contextlib.suppress(LinkClosed, OSError):
            self._link.send(protocol.Bye(reason=reason))

    def take(self, request: int, timeout_s: float) -> protocol.AnyMessage | None:
        """Give the oldest message of ``request``, None after ``timeout_s`` without one."""
        kept = self._waiting.get(request)
        if kept:
            return kept.pop(0)
        give_up_at = time.monotonic() + timeout_s
        while True:
            message = self._next(max(0.0, give_up_at - time.monotonic()))
            if message is None:
                return None
            number = getattr(message, "request", None)
            if number == request:
                return message
            if isinstance(number, int):
                self._waiting.setdefault(number, []).append(message)

    def close(self) -> None:
        """End the connection and its thread, sending first what is still to be sent."""
        self._leaving.set()
        self._link.wake()
        self._thread.join(2 * _GOODBYE_S)
        self._link.close()
        self._thread.join()

    def _next(self, timeout_s: float | None) -> protocol.AnyMessage | None:
        if self._ended is not None:
            raise _ending(self._ended)
        try:
            message = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(message, _Ended):
            self._ended = message
            raise _ending(message)
        return message

    def _drain_to_the_end(self) -> None:
        """Find out why the link closed; the thread always says so before it ends."""
        while self._next(None) is not None:
            pass


def _ending(ended: _Ended) -> Exception:
    if ended.retry:
        return HeadLost(ended.reason)
    return NoHead(f"cannot reach a head: {plain(ended.reason)}")


def fault_of(refused: protocol.Refused) -> ClusterRayError:
    """Give the fault that a Refused stands for; an unknown code is a fault of the job."""
    kind = FAULT_BY_EXIT_CODE.get(refused.code, SceneFault)
    return kind(refused.message, file=refused.file or None, line=refused.line or None)


def _pauses() -> Iterator[float]:
    """Give the seconds to wait between tries, jittered so that a crowd does not come at once."""
    for step in itertools.chain(_PAUSES_S, itertools.repeat(_PAUSES_S[-1])):
        yield step * random.uniform(0.8, 1.2)


def _within(left_s: float) -> float:
    return min(_DIAL_S, max(0.05, left_s))


def _reason(error: Exception) -> str:
    if isinstance(error, HeadLost):
        return error.reason
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
