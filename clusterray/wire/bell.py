"""A bell: one thread waits for it in a poll, any other rings it.

Ringing and silencing keep the interpreter's lock, which Python's own calls on sockets let go of: a
thread that rings a hundred others would stand in line for it a hundred times, behind all those that
it has just woken. Neither call can block.
"""

from __future__ import annotations

import ctypes
import socket
from typing import Final

_libc: Final = ctypes.PyDLL(None)
_DRAINED_BYTES: Final = 64
_drained: Final = ctypes.create_string_buffer(_DRAINED_BYTES)


class Bell:
    """A pair of sockets; the one that may be polled for reading is ``fileno``'s."""

    def __init__(self) -> None:
        self._in, self._out = socket.socketpair()
        self._in.setblocking(False)
        self._out.setblocking(False)

    def fileno(self) -> int:
        """Give the descriptor that becomes readable, -1 once closed."""
        return self._out.fileno()

    def ring(self) -> None:
        """Make it readable; a full buffer means that it is."""
        _libc.send(self._in.fileno(), b"\0", 1, 0)

    def silence(self) -> None:
        """Take a few rings back."""
        _libc.recv(self._out.fileno(), _drained, _DRAINED_BYTES, 0)

    def close(self) -> None:
        """Close both ends; nobody may ring any more."""
        self._in.close()
        self._out.close()
