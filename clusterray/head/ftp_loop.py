"""What of pyftpdlib's loop and listening socket the head's FTP server has otherwise; its log.

On the thread ``ftp``, but for ``Waker.wake``. Knows neither grants nor files.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from typing import Any, Final

from pyftpdlib.servers import FTPServer

MAX_SOCKETS: Final = 4096
"""Sockets of this server together: sessions, data listeners and data connections."""
_ACCEPT_PAUSE_S: Final = 1.0
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = logging.getLogger("clusterray.head.ftp")


class Waker:
    """The read end of a socket pair in the loop; ``wake`` from any thread ends a poll."""

    def __init__(self, loop: Any) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._fileno = self._read.fileno()
        loop.register(self._fileno, self, loop.READ)

    def wake(self) -> None:
        """End the current or next poll; does nothing once closed."""
        # A full buffer means that a wake-up is already under way.
        with contextlib.suppress(OSError):
            self._write.send(b"\0")

    def close(self) -> None:
        """Close both ends; the loop's own close does this too, for the end it knows."""
        self._read.close()
        self._write.close()

    # What pyftpdlib's loop asks of each of its channels:

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._read.recv(4096):
                pass

    def handle_close(self) -> None:
        self.close()

    def handle_error(self) -> None:
        _log.exception("the ftp thread's wake-up socket failed")


class Listener(FTPServer):  # type: ignore[misc]  # pyftpdlib has no types
    """The listening socket."""

    max_cons = MAX_SOCKETS

    def handle_accept(self) -> None:
        try:
            super().handle_accept()
        except OSError as error:
            if error.errno not in _OUT_OF_DESCRIPTORS:
                raise
            _log.error("cannot accept an FTP session: %s; raise the limit of open files", error)
            # The socket stays readable: without a pause the loop would spin.
            self.del_channel()
            self.ioloop.call_later(_ACCEPT_PAUSE_S, self.add_channel)

    def handle_error(self) -> None:
        # pyftpdlib closes the listening socket here: one odd connection would end the service.
        _log.exception("could not take in an FTP session")


class _ToOurLog(logging.Handler):
    """Passes pyftpdlib's records on to our own logger."""

    def emit(self, record: logging.LogRecord) -> None:
        if _log.isEnabledFor(record.levelno):
            _log.handle(record)


def route_log() -> None:
    """Have pyftpdlib's words in our own log from now on, and nowhere else."""
    theirs = logging.getLogger("pyftpdlib")
    if any(isinstance(handler, _ToOurLog) for handler in theirs.handlers):
        return
    theirs.addHandler(_ToOurLog())
    theirs.propagate = False
    theirs.setLevel(logging.WARNING)
