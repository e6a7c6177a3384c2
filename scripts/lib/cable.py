"""The network between the head and one other machine, which can be cut, torn and mended again.

A relay for some TCP ports: it listens on a loopback address of its own, at the head's port numbers,
and passes on what comes to the head's address. Whoever has a token that names that address has its
control connection, its FTP session and each FTP data connection on this cable. One thread owns all
sockets; the others leave orders and wake it.
"""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, TypeAlias

Order: TypeAlias = Literal["cut", "tear", "mend", "end"]

_PIECE = 1 << 16
_BACKLOG = 64
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing says RST, as a router does that has forgotten a connection."""


@dataclass(eq=False, slots=True)
class _End:
    """One end of a connection, and what waits to be sent to it."""

    sock: socket.socket
    other: _End | None = None
    waiting: bytearray = field(default_factory=bytearray)
    hears_no_more: bool = False
    """It has said all it will: read to the end."""
    is_told: bool = False
    """It has been told that no more comes."""


class Cable:
    """A relay from the address ``near`` to ``head`` for each of ``ports``. Use it in a ``with``."""

    def __init__(self, near: str, head: str, ports: Iterable[int]) -> None:
        self.near = near
        self._head = head
        self._ports = tuple(ports)
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._waker, self._wakened = socket.socketpair()
        self._listening: list[socket.socket] = []
        self._ends: set[_End] = set()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name=f"cable {near}")
        self._is_cut = False
        self._is_torn = False

    def __enter__(self) -> Cable:
        try:
            for port in self._ports:
                listening = socket.create_server((self.near, port), backlog=_BACKLOG)
                listening.setblocking(False)
                self._listening.append(listening)
        except OSError:
            self._close()
            raise
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._order("end")
        self._thread.join()

    # ------------------------------------------------------------ called by any thread

    def cut(self) -> None:
        """Let nothing pass and tell nobody; what is said meanwhile comes when it is mended."""
        self._order("cut")

    def tear(self) -> None:
        """Reset every connection, and every new one, until it is mended."""
        self._order("tear")

    def mend(self) -> None:
        """Let everything pass again."""
        self._order("mend")

    def _order(self, order: Order) -> None:
        self._orders.put(order)
        self._waker.send(b"!")

    # ------------------------------------------------------------ called by the cable's thread

    def _run(self) -> None:
        self._selector.register(self._wakened, selectors.EVENT_READ)
        for listening in self._listening:
            self._selector.register(listening, selectors.EVENT_READ)
        try:
            while self._step():
                pass
        finally:
            self._close()

    def _step(self) -> bool:
        for key, events in self._selector.select():
            if key.fileobj is self._wakened:
                if not self._obey():
                    return False
            elif self._is_cut:
                # Found ready before the order came; it is looked at again once mended.
                continue
            elif isinstance(key.data, _End):
                self._move(key.data, events)
            else:
                assert isinstance(key.fileobj, socket.socket)
                self._accept(key.fileobj)
        return True

    def _obey(self) -> bool:
        self._wakened.recv(_BACKLOG)
        with contextlib.suppress(queue.Empty):
            while (order := self._orders.get_nowait()) != "end":
                self._is_cut, self._is_torn = order == "cut", order == "tear"
                while self._is_torn and self._ends:
                    self._reset(next(iter(self._ends)))
                self._watch_all()
            return False
        return True

    def _watch_all(self) -> None:
        for listening in self._listening:
            self._watch(listening, 0 if self._is_cut else selectors.EVENT_READ)
        for end in self._ends:
            self._watch_end(end)

    def _watch_end(self, end: _End) -> None:
        events = 0
        if not self._is_cut:
            assert end.other is not None
            if not end.hears_no_more and not end.other.waiting:
                events |= selectors.EVENT_READ
            if end.waiting:
                events |= selectors.EVENT_WRITE
        self._watch(end.sock, events, end)

    def _watch(self, sock: socket.socket, events: int, end: _End | None = None) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(sock)
        if events:
            self._selector.register(sock, events, end)

    def _accept(self, listening: socket.socket) -> None:
        try:
            peer, _ = listening.accept()
        except OSError:
            return
        near = _End(peer)
        if self._is_torn:
            self._reset(near)
            return
        try:
            # On loopback it is there at once or refused at once.
            head = socket.create_connection((self._head, listening.getsockname()[1]))
        except OSError:
            self._reset(near)
            return
        near.other = _End(head, near)
        for end in (near, near.other):
            end.sock.setblocking(False)
            self._ends.add(end)
            self._watch_end(end)

    def _move(self, end: _End, events: int) -> None:
        if end not in self._ends:
            return
        assert end.other is not None
        try:
            if events & selectors.EVENT_READ and not end.other.waiting:
                data = end.sock.recv(_PIECE)
                end.other.waiting += data
                end.hears_no_more = not data
            for each in (end, end.other):
                self._send(each)
        except BlockingIOError:
            pass
        except OSError:
            self._reset(end)
            return
        if end.is_told and end.other.is_told:
            self._forget(end)
            return
        for each in (end, end.other):
            self._watch_end(each)

    def _send(self, end: _End) -> None:
        assert end.other is not None
        if end.waiting:
            with contextlib.suppress(BlockingIOError):
                del end.waiting[: end.sock.send(end.waiting)]
        if end.other.hears_no_more and not end.waiting and not end.is_told:
            end.is_told = True
            end.sock.shutdown(socket.SHUT_WR)

    def _reset(self, end: _End) -> None:
        for each in (end, end.other):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._forget(end)

    def _forget(self, end: _End) -> None:
        for each in (end, end.other):
            if each is not None:
                self._ends.discard(each)
                with contextlib.suppress(KeyError):
                    self._selector.unregister(each.sock)
                each.sock.close()

    def _close(self) -> None:
        while self._ends:
            self._forget(next(iter(self._ends)))
        for sock in (*self._listening, self._waker, self._wakened):
            sock.close()
        self._selector.close()
