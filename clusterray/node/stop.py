"""How a person's wish to end the node reaches its "main" thread.

``StopFlag.request`` is safe in a signal handler: it takes no lock and never waits. All else is
called by the "main" thread.
"""

from __future__ import annotations

import contextlib
import select
import socket
from types import TracebackType


class StopFlag:
    """Counts the requests to stop: the first one drains the node, the second stops it at once."""

    def __init__(self) -> None:
        self._requests = 0
        # threading.Event would not do: its lock may be held by the very thread that the signal
        # handler interrupts.
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)

    def __enter__(self) -> StopFlag:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def request(self) -> None:
        """Ask once more to stop; any thread, any signal handler."""
        self._requests += 1
        self.poke()

    def poke(self) -> None:
        """End a ``wait`` early without asking for anything; any thread."""
        with contextlib.suppress(OSError):
            self._wake_out.send(b"!")

    @property
    def draining(self) -> bool:
        """Tell whether the node is to finish what it has and leave."""
        return self._requests >= 1

    @property
    def at_once(self) -> bool:
        """Tell whether the node is to leave without finishing anything."""
        return self._requests >= 2

    def wait(self, timeout_s: float) -> None:
        """Wait for a request or a ``poke``, at most ``timeout_s`` seconds."""
        poll = select.poll()
        poll.register(self._wake_in, select.POLLIN)
        if poll.poll(timeout_s * 1000):
            with contextlib.suppress(BlockingIOError):
                while self._wake_in.recv(4096):
                    pass

    def close(self) -> None:
        """Give the descriptors back; a late request is counted and wakes nobody."""
        self._wake_in.close()
        self._wake_out.close()
