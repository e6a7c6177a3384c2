"""A man in the middle: relays to the real server, with TLS of its own on the victim's side."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress

ALL_S = 10.0


class Middleman:
    """Listens on loopback for one victim after another; ``heard`` is all it could read of theirs.

    TLS begins at once, or once the server has said a line that begins with ``after``; until then
    both are relayed as they are. Behind the middleman's own TLS all is relayed in its own TLS.
    """

    def __init__(self, port: int, context: ssl.SSLContext, *, after: bytes = b"") -> None:
        self._to = port
        self._context = context
        self._after = after
        self.heard: list[bytes] = []
        self.connections = 0
        self.called = threading.Semaphore(0)
        """Released for each connection."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="middleman")

    def __enter__(self) -> Middleman:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def heard_any(self, *words: bytes) -> bool:
        said = b"".join(self.heard)
        return any(word in said for word in words)

    def _accept(self) -> None:
        while True:
            try:
                victim, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self.called.release()
            with suppress(OSError):
                self._relay(victim)
            victim.close()

    def _relay(self, victim: socket.socket) -> None:
        victim.settimeout(ALL_S)
        with socket.create_connection(("127.0.0.1", self._to), timeout=ALL_S) as server:
            if self._after:
                self._relay_plain(victim, server)
            with self._context.wrap_socket(victim, server_side=True) as inside:
                while data := inside.recv(4096):
                    self.heard.append(data)

    def _relay_plain(self, victim: socket.socket, server: socket.socket) -> None:
        while True:
            said = server.recv(4096)
            victim.sendall(said)
            if not said or said.startswith(self._after):
                return
            asked = victim.recv(4096)
            self.heard.append(asked)
            server.sendall(asked)
