"""TLS for waitress: one browser's connection, its handshake done by the loop as its bytes come.

waitress reads on the thread ``web`` and may write on a worker, so each step of TLS is taken under a
lock. Nothing here ever waits: who is silent in the middle of a handshake costs an idle socket.
(A server that shakes hands in the thread that accepts, as cheroot does, would wait for it.)
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any, Final

from waitress.channel import HTTPChannel

_NOT_NOW: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
_UNREAD_BYTES: Final = 1 << 16
PLAIN_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This head speaks TLS: open the page with https:// instead of http://\n"
)


class _TlsSocket:
    """What waitress asks of a socket, over TLS; ``recv`` and ``send`` raise what ``ssl`` does."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        sock.setblocking(False)
        # Guards the one TLS state that reading and writing share; no step under it waits.
        self._lock = threading.Lock()
        self._sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recv(self, size: int) -> bytes:
        with self._lock:
            return self._sock.recv(size)

    def send(self, data: bytes) -> int:
        with self._lock:
            return self._sock.send(data)

    def answer_in_the_clear(self, answer: bytes) -> None:
        with self._lock, suppress(OSError):
            # What is left unread would reset the connection under the answer.
            socket.socket.recv(self._sock, _UNREAD_BYTES)
            socket.socket.send(self._sock, answer)

    def close(self) -> None:
        with self._lock:
            with suppress(OSError, ValueError):
                self._sock.unwrap()
            self._sock.close()


class TlsChannel(HTTPChannel):  # type: ignore[misc]  # waitress has no types
    """One connection; made with the head's ``context`` beside what waitress gives."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket, server: Any, **more: Any):
        super().__init__(server, _TlsSocket(sock, context), **more)

    def handle_read(self) -> None:
        """Take what has come, a step of the handshake or part of a request."""
        while self.socket is not None:
            try:
                data = self.socket.recv(self.adj.recv_bytes)
            except _NOT_NOW:
                return
            except OSError as error:
                if isinstance(error, ssl.SSLError) and error.reason == "HTTP_REQUEST":
                    self.socket.answer_in_the_clear(PLAIN_ANSWER)
                self.handle_close()
                return
            if not data:
                self.handle_close()
                return
            self.last_activity = time.time()
            self.received(data)
            # What is decrypted already poll would not report.
            if self.socket is not None and not self.socket.pending():
                return

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Send what goes out now, 0 bytes if none does; raises OSError if the peer is gone."""
        sock = self.socket
        if sock is None:
            # Closed by the thread "web" while a worker had more to say.
            return 0
        try:
            return int(sock.send(data))
        except _NOT_NOW:
            return 0
