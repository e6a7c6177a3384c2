"""A TCP relay on loopback that sees what passes, and may change it, hold it back or cut it off."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

Look: TypeAlias = Callable[[bytes], bytes | None]
"""Takes one piece on its way to the peer; gives what is to go on, None to cut the connection."""


class Relay:
    """Passes on what peers and ``target`` say. ``look`` sees each piece that the target sends.

    ``split`` cuts the target's bytes into pieces: it takes a buffer and removes one piece from its
    beginning, or gives None until there is one.
    """

    def __init__(
        self, target: tuple[str, int], split: Callable[[bytearray], bytes | None], look: Look
    ) -> None:
        self._target = target
        self._split = split
        self._look = look
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._sockets = [self._listening]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Relay:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in list(self._sockets):
            _end(sock)
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listening.accept()
                target = socket.create_connection(self._target)
                self._sockets += [peer, target]
                for pump in (self._to_target, self._to_peer):
                    thread = threading.Thread(target=pump, args=(peer, target))
                    self._threads.append(thread)
                    thread.start()

    def _to_target(self, peer: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := peer.recv(65536):
                target.sendall(data)
        _end(target)

    def _to_peer(self, peer: socket.socket, target: socket.socket) -> None:
        buffer = bytearray()
        with contextlib.suppress(OSError):
            while data := target.recv(65536):
                buffer += data
                while (piece := self._split(buffer)) is not None:
                    seen = self._look(piece)
                    if seen is None:
                        _end(peer)
                        break
                    peer.sendall(seen)
        _end(peer)


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def frame(buffer: bytearray) -> bytes | None:
    """Split the control connection's frames."""
    if len(buffer) < 4:
        return None
    (length,) = struct.unpack_from(">I", buffer)
    if len(buffer) < 4 + length:
        return None
    piece = bytes(buffer[: 4 + length])
    del buffer[: 4 + length]
    return piece


def line(buffer: bytearray) -> bytes | None:
    """Split FTP's replies."""
    end = buffer.find(b"\r\n")
    if end < 0:
        return None
    piece = bytes(buffer[: end + 2])
    del buffer[: end + 2]
    return piece


def message_of(piece: bytes) -> dict[str, Any]:
    """Give the message of a frame."""
    message: dict[str, Any] = json.loads(piece[4:])
    return message


def frame_of(message: dict[str, Any]) -> bytes:
    """Give the frame of a message."""
    body = json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body
