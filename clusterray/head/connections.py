"""One thread per peer: from accept, through the handshake, to the end of its conversation.

The thread owns its socket and decoder. What is said after the handshake is in ``node_talk`` and
``client_talk``.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import threading
import time

from clusterray import __version__
from clusterray.head.client_talk import ClientTalk
from clusterray.head.conversation import Conversation, Introduction, Refusal, Services
from clusterray.head.doorkeeper import site_of
from clusterray.head.letters import Closed
from clusterray.head.node_talk import NodeTalk
from clusterray.wire import protocol as msg
from clusterray.wire.link import Link, LinkClosed
from clusterray.wire.protocol import PROTOCOL_MAX, PROTOCOL_MIN, Hello, ProtocolError

HELLO_SECONDS = 10.0
"""A peer that has not said HELLO by then is closed."""
FAREWELL_SECONDS = 2.0
OWN_BEAT = 1.5
"""A beat of the head's own accord comes so much later than a peer's, which it answers: so a peer
that waits wakes its thread once, not twice."""

_log = logging.getLogger("clusterray.head.connections")
_numbers = itertools.count(1)


class _WrongSecret(Refusal):
    """The peer's secret opens nothing."""


class Connection(threading.Thread):
    """A peer's thread, from accept to close; becomes ``node-N`` or ``client-N`` by its HELLO."""

    def __init__(self, sock: socket.socket, address: str, services: Services) -> None:
        self.site = site_of(address)
        self.stranger = True
        """Whether it has shown no good secret yet; written by its own thread only."""
        self.closing = False
        """Whether the main thread has told it to end."""
        self._address = address
        self.number = next(_numbers)
        super().__init__(name=f"peer-{self.number}", daemon=True)
        self._services = services
        self._link = Link(
            sock,
            heartbeat_s=services.settings.heartbeat_s * OWN_BEAT,
            silent_s=services.settings.silent_s,
            messages_per_s=services.settings.max_messages_per_s,
        )

    def close(self) -> None:
        """End the conversation; the main thread only."""
        self.closing = True
        self._link.close()

    def run(self) -> None:
        """Shake hands, then let the role's conversation run until either side ends it."""
        reason, silent = "closed", False
        talk: Conversation | None = None
        try:
            talk = self._shake_hands()
            self.name = f"{talk.role}-{self.number}"
            talk.run()
        except LinkClosed as closed:
            reason, silent = closed.reason, closed.silent
        except ProtocolError as error:
            reason = f"sent what is no message of ours: {error}"
            self._farewell(reason, retry=False)
        except _WrongSecret as wrong:
            reason = str(wrong)
            self._answer_late(wrong)
        except Refusal as refusal:
            reason = str(refusal)
            self._farewell(reason, retry=refusal.retry)
        except Exception:  # noqa: BLE001 - one peer's conversation must not end another's
            reason = "a fault of the head"
            _log.exception("%s: the conversation ended by a fault of ours", self._link.peer)
            self._farewell(reason, retry=True)
        finally:
            self._link.close()
            if talk is not None:
                talk.ended()
                self._services.task_manager.post(Closed(self.number, reason, silent))
                _log.info("%s: %s", self._link.peer, reason)
            else:
                _log.warning("%s was not let in: %s", self._link.peer, reason)

    def _shake_hands(self) -> Conversation:
        self._check_way()
        hello = self._link.receive(HELLO_SECONDS)
        if not isinstance(hello, Hello):
            raise Refusal("say HELLO first", retry=False)
        protocol = min(hello.protocol[1], PROTOCOL_MAX)
        if protocol < max(hello.protocol[0], PROTOCOL_MIN):
            raise Refusal(self._version_words(hello), retry=False)
        record = self._services.tokens.identify(hello.secret)
        if record is None:
            raise _WrongSecret("this token is not valid here", retry=False)
        if record.role != hello.role:
            raise Refusal(f"this is a token for {record.role}, not for {hello.role}", retry=False)
        self.stranger = False
        self._link.trust_peer()
        talk = self._conversation(Introduction(hello, record, protocol))
        self._link.send(
            msg.Welcome(
                protocol=protocol,
                version=__version__,
                farm=self._services.farm_id,
                ftp_port=self._services.ftp_port,
                http_port=self._services.http_port,
                heartbeat_s=self._services.settings.heartbeat_s,
                silent_s=self._services.settings.silent_s,
            )
        )
        return talk

    def _check_way(self) -> None:
        """Have the peer speak TLS if the head does, or come from where it need not."""
        services = self._services
        if not services.doorkeeper.may_knock(self._address):
            self._hear_out()
            raise Refusal(
                f"this head speaks without TLS, and not with {self._address} (setting "
                "plain_networks)",
                retry=False,
            )
        if services.tls is not None and not self._link.secure(services.tls, HELLO_SECONDS):
            self._hear_out()
            raise Refusal(
                "this head speaks TLS only, and your token is of one that does not; "
                "get the token that it writes now",
                retry=False,
            )

    def _hear_out(self) -> None:
        # Closing a socket with something unread would reset it under our answer.
        with contextlib.suppress(ProtocolError):
            self._link.receive(HELLO_SECONDS)

    def _conversation(self, card: Introduction) -> Conversation:
        if card.hello.role != "node":
            return ClientTalk(self.number, self._link, self._services, card)
        if card.hello.node is None:
            raise Refusal("a node must say what it can do", retry=False)
        return NodeTalk(self.number, self._link, self._services, card)

    def _version_words(self, hello: Hello) -> str:
        older = hello.protocol[1] < PROTOCOL_MIN
        who = f"update {hello.name}" if older else "update the head"
        return (
            f"no common protocol: the head ({__version__}) speaks {PROTOCOL_MIN} to "
            f"{PROTOCOL_MAX}, {hello.name} ({hello.version}) {hello.protocol[0]} to "
            f"{hello.protocol[1]}; {who}"
        )

    def _answer_late(self, wrong: _WrongSecret) -> None:
        with self._services.doorkeeper.wrong_secret(self._address) as wait_s:
            if wait_s is None:
                return
            until = time.monotonic() + wait_s
            with contextlib.suppress(LinkClosed, ProtocolError):
                while (left_s := until - time.monotonic()) > 0:
                    self._link.receive(left_s)
        self._farewell(str(wrong), retry=False)

    def _farewell(self, reason: str, *, retry: bool) -> None:
        try:
            self._link.send(msg.Bye(reason[:8000], retry))
            self._link.flush(FAREWELL_SECONDS)
        except LinkClosed:
            pass
