"""A head for tests: speaks the real messages over real sockets, and says what a test tells it to.

The FTP server beside it is the head's own room around pyftpdlib.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from clusterray.head.ftp_server import FtpServer
from clusterray.head.grants import FileGrant
from clusterray.wire.link import Link, LinkClosed
from clusterray.wire.protocol import (
    AnyMessage,
    Grant,
    Hello,
    JobView,
    Message,
    ProtocolError,
    Result,
    Role,
    Welcome,
)
from clusterray.wire.trust import JoinToken, new_secret

LAST_WORD_S = 1.0
Answer = Callable[[AnyMessage], Sequence[Message]]


class HangUp(Exception):
    """Raised by an answer: the head closes the connection without a word."""


def job_view(**changes: object) -> JobView:
    values: dict[str, object] = {
        "id": "j1",
        "number": 1,
        "title": "room",
        "owner": "ann@desk",
        "state": "running",
        "priority": 0,
        "scene": "0" * 64,
        "width": 10,
        "height": 10,
        "region": (0, 0, 10, 10),
        "output_name": "room.png",
        "created": 0.0,
        "elapsed_s": 1.0,
        "pixels_done": 0,
        "pixels_total": 100,
    }
    return JobView(**{**values, **changes})  # type: ignore[arg-type]


class StandInHead:
    """Listens on loopback; ``answer`` gives the messages to send back for each that arrives."""

    def __init__(self, answer: Answer, greeting: Message | None = None) -> None:
        self.answer = answer
        self.heard: list[AnyMessage] = []
        self.ftp = FtpServer("127.0.0.1", 0)
        self.ftp.start()
        self._greeting = greeting or Welcome(1, "0", "farm", self.ftp.port, 0, 4.0, 16.0)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._links: list[Link] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, name="stand-in")
        self._accepting.start()

    def token(self, role: Role = "submit") -> JoinToken:
        host, port = self._listening.getsockname()
        return JoinToken(host, port, role, "", new_secret())

    def offer_file(self, path: Path, name: str = "picture.png") -> Result:
        """Make ``path`` readable by FTP and give the Result that names it."""
        grant = FileGrant("reader", "secret", name, path, "read")
        self.ftp.grant(grant)
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        return Result(0, name, len(data), digest, Grant("reader", "secret", name))

    def stop(self) -> None:
        # A shutdown wakes the thread that accepts; a close alone does not.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listening.close()
        for thread in self._threads:
            # A client that has left has said its last word: hear it before closing.
            thread.join(LAST_WORD_S)
        for link in self._links:
            link.close()
        for thread in self._threads:
            thread.join()
        self.ftp.stop()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            link = Link(sock)
            self._links.append(link)
            thread = threading.Thread(target=self._talk, args=(link,), name="stand-in-peer")
            self._threads.append(thread)
            thread.start()

    def _talk(self, link: Link) -> None:
        try:
            while True:
                message = link.receive(None)
                if message is None:
                    continue
                self.heard.append(message)
                replies = [self._greeting] if isinstance(message, Hello) else self.answer(message)
                for reply in replies:
                    link.send(reply)
        except (LinkClosed, ProtocolError):
            pass
        except HangUp:
            link.flush(1.0)
        finally:
            link.close()


@contextmanager
def stand_in_head(answer: Answer, greeting: Message | None = None) -> Iterator[StandInHead]:
    head = StandInHead(answer, greeting)
    try:
        yield head
    finally:
        head.stop()


class Transcript:
    """A Report that only remembers."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.views: list[JobView] = []
        self.moved: dict[str, int] = {}

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def lines(self, lines: list[str]) -> None:
        self.sentences.extend(lines)

    @contextmanager
    def transfer(self, verb: str, total: int) -> Iterator[Callable[[int], None]]:
        self.moved[verb] = 0

        def advance(size: int) -> None:
            self.moved[verb] += size

        yield advance

    def job(self, view: JobView, sentence: str) -> None:
        self.views.append(view)
        if sentence:
            self.sentences.append(sentence)

    def close(self) -> None:
        pass
