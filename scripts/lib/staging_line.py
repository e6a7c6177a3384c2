"""A scene's tar over a line of a given rate, as it is and packed where that is worth it.

The line is a relay on a loopback address of its own, with a thread for each direction that lets so
many bytes a second through and no more.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Final

from clusterray.head.ftp_server import FtpServer
from clusterray.head.grants import FileGrant
from clusterray.wire.packing import Packer
from clusterray.wire.protocol import Grant
from clusterray.wire.staging import FtpSession

MBIT: Final = 1e6 / 8
RATES: Final = (20 * MBIT, 100 * MBIT, 1000 * MBIT)
_RELAY: Final = "127.0.0.2"
_HEAD: Final = "127.0.0.1"
_PIECE: Final = 1 << 14
_ROOM: Final = 1 << 18


class Line:
    """Relays ports of the head at a rate; the bytes that wait in it are few."""

    def __init__(self, bytes_per_s: float) -> None:
        self._rate = bytes_per_s
        self._listening: list[socket.socket] = []

    def relay(self, port: int) -> None:
        """Listen at a port of the head's number."""
        listening = socket.create_server((_RELAY, port))
        self._listening.append(listening)
        threading.Thread(target=self._accept, args=(listening, port), daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        for listening in self._listening:
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()

    def _accept(self, listening: socket.socket, port: int) -> None:
        with suppress(OSError):
            while True:
                near, _ = listening.accept()
                near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
                far = socket.create_connection((_HEAD, port))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        free_at = time.monotonic()
        with suppress(OSError):
            while data := source.recv(_PIECE):
                free_at = max(free_at, time.monotonic() - 0.01) + len(data) / self._rate
                if (ahead := free_at - time.monotonic()) > 0.002:
                    time.sleep(ahead)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def measure(folder: Path, size: int, rng: random.Random) -> Iterator[dict[str, float | int | str]]:
    """Send a mesh of so many bytes over each line, both ways."""
    mesh = folder / "mesh.inc"
    with mesh.open("w") as out:
        while out.tell() < size:
            points = (
                f"<{rng.random():.6f},{rng.random():.6f},{rng.random():.6f}>," for _ in range(9)
            )
            out.write("".join(points) + "\n")
    for rate in RATES:
        for packed in (False, True):
            yield send(folder, mesh, rate, packed)


def send(folder: Path, mesh: Path, rate: float, packed: bool) -> dict[str, float | int | str]:
    """Send the file once; gives the seconds and the bytes that crossed."""
    with ExitStack() as stack:
        with socket.create_server((_HEAD, 0)) as free:
            data_port = free.getsockname()[1]
        server = FtpServer(_HEAD, 0, (data_port, data_port))
        server.start()
        stack.callback(server.stop)
        server.grant(FileGrant("w", "pw", "file", folder / "arrived", "write", 1 << 40))
        line = stack.enter_context(closing(Line(rate)))
        line.relay(server.port)
        line.relay(data_port)
        session = stack.enter_context(closing(FtpSession(_RELAY, server.port)))
        packer = Packer() if packed else None
        begun_at = time.monotonic()
        session.upload(Grant("w", "pw", "file"), mesh, packer=packer)
        return {
            "what": "line",
            "mbit_per_s": round(rate / MBIT),
            "packed": int(packed),
            "bytes": mesh.stat().st_size,
            "sent_bytes": (folder / "arrived").stat().st_size,
            "seconds": time.monotonic() - begun_at,
        }
