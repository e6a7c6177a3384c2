"""Bytes through the head's FTP server beside a plain socket copy of the same bytes.

Server and clients are processes of their own; this one only says when to begin. A transfer takes
from the first client's beginning to the last one's end. Beside the seconds stand those of the CPU,
of the server and of all clients: they hold also where a machine is busy with other things.
"""

from __future__ import annotations

import multiprocessing as mp
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from clusterray.head.certificate import head_certificate
from clusterray.head.ftp_server import FtpServer
from clusterray.head.grants import FileGrant
from clusterray.wire.protocol import Grant
from clusterray.wire.staging import FtpSession

Way: TypeAlias = Literal["down", "up"]
Means: TypeAlias = Literal["copy", "ftp", "ftp-tls"]
WAYS: Final[tuple[Way, ...]] = ("down", "up")
MEANS: Final[tuple[Means, ...]] = ("copy", "ftp", "ftp-tls")

_CHUNK: Final = 1 << 18
_WAIT_S: Final = 300.0
_START: Final = mp.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens; ``fingerprint`` is "" without TLS."""

    port: int
    fingerprint: str = ""


# ---------------------------------------------------------------- servers, each a process


def serve_ftp(said: Connection, folder: Path, clients: int, tls: bool) -> None:
    """Be the head's FTP server, ``clusterray/head/ftp_server.py``, until told to stop."""
    certificate = head_certificate(folder) if tls else None
    server = FtpServer("127.0.0.1", 0, pem=certificate.pem if certificate else None)
    for number in range(clients):
        real = folder / f"up-{'tls' if tls else 'plain'}-{number}"
        server.grant(FileGrant(f"r{number}", "pw", "file", folder / "down", "read"))
        server.grant(FileGrant(f"w{number}", "pw", "file", real, "write", 1 << 40))
    server.start()
    said.send(Place(server.port, certificate.fingerprint if certificate else ""))
    _answer(said)
    server.stop()


def _answer(said: Connection) -> None:
    """Say how much of the CPU this process has used, each time it is asked, until told to stop."""
    while said.recv() is not None:
        said.send(time.process_time())


def serve_copies(said: Connection, folder: Path, clients: int, tls: bool) -> None:
    """Be the plainest server: a thread for each connection, file to socket, or back."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        said.send(Place(listening.getsockname()[1]))
        threading.Thread(target=_accept, args=(listening, folder), daemon=True).start()
        _answer(said)


def _accept(listening: socket.socket, folder: Path) -> None:
    while True:
        try:
            peer, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_copy, args=(peer, folder), daemon=True).start()


def _copy(peer: socket.socket, folder: Path) -> None:
    with peer:
        word = peer.recv(2)
        if word[:1] == b"d":
            with (folder / "down").open("rb") as file:
                pump(lambda: file.read(_CHUNK), peer.sendall)
            return
        with (folder / f"up-{word[1]}").open("wb", buffering=0) as file:
            pump(lambda: peer.recv(_CHUNK), file.write)
        peer.sendall(b"!")


def pump(take: Callable[[], bytes], give: Callable[[bytes], object]) -> None:
    """Move bytes until there are none."""
    while data := take():
        give(data)


# ---------------------------------------------------------------- clients, each a process


def be_client(said: Connection, means: Means, place: Place, folder: Path, number: int) -> None:
    """Do what is told, "down" or "up", and say when it began, ended, and its CPU; until None."""
    session = FtpSession("127.0.0.1", place.port, place.fingerprint)
    said.send("ready")
    while (way := said.recv()) is not None:
        target = folder / f"got-{means}-{number}"
        target.unlink(missing_ok=True)
        began_at, used = time.monotonic(), time.process_time()
        if means == "copy":
            copy_by_socket(place.port, way, folder / "down", target, number)
        elif way == "down":
            session.download(Grant(f"r{number}", "pw", "file"), target, hashed=False)
        else:
            session.upload(Grant(f"w{number}", "pw", "file"), folder / "down")
        said.send((began_at, time.monotonic(), time.process_time() - used))
    session.close()


def copy_by_socket(port: int, way: Way, source: Path, target: Path, number: int) -> None:
    """Move a file by the plainest means."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(way[:1].encode() + bytes([number]))
        if way == "down":
            with target.open("wb", buffering=0) as file:
                pump(lambda: sock.recv(_CHUNK), file.write)
            return
        with source.open("rb", buffering=0) as file:
            pump(lambda: file.read(_CHUNK), sock.sendall)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)


# ---------------------------------------------------------------- the one that measures


@dataclass(frozen=True, slots=True)
class Took:
    """How long a transfer took, and how much of the CPU at the server and at all its clients."""

    seconds: float
    server_cpu: float
    clients_cpu: float


@dataclass(slots=True)
class Crew:
    """A server and its clients, ready and waiting."""

    server: Connection
    clients: list[Connection]

    def move(self, way: Way) -> Took:
        """Have all clients move their file at once."""
        used = self._server_cpu()
        for client in self.clients:
            client.send(way)
        times = [_heard(client) for client in self.clients]
        seconds = max(end for _, end, _ in times) - min(begin for begin, _, _ in times)
        return Took(seconds, self._server_cpu() - used, sum(cpu for _, _, cpu in times))

    def _server_cpu(self) -> float:
        self.server.send("cpu")
        return float(_heard(self.server))


@contextmanager
def crew(means: Means, folder: Path, clients: int) -> Iterator[Crew]:
    """Give a server and so many clients, each a process; ``folder`` holds the file ``down``."""
    serve: Callable[..., None] = serve_copies if means == "copy" else serve_ftp
    with _process(serve, folder, clients, means == "ftp-tls") as server:
        place = _heard(server)
        told, ends = [], []
        try:
            for number in range(clients):
                ours, end = _begin(be_client, means, place, folder, number)
                told.append(ours)
                ends.append(end)
            for client in told:
                _heard(client)
            yield Crew(server, told)
        finally:
            for client, end in zip(told, ends, strict=True):
                _end(client, end)


@contextmanager
def _process(work: Callable[..., None], *words: Any) -> Iterator[Connection]:
    ours, process = _begin(work, *words)
    try:
        yield ours
    finally:
        _end(ours, process)


def _begin(work: Callable[..., None], *words: Any) -> tuple[Connection, Any]:
    ours, theirs = _START.Pipe()
    process = _START.Process(target=work, args=(theirs, *words), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _end(connection: Connection, process: Any) -> None:
    with suppress(OSError):
        connection.send(None)
    process.join(10)
    if process.is_alive():
        process.kill()
        process.join()


def _heard(connection: Connection) -> Any:
    if not connection.poll(_WAIT_S):
        raise RuntimeError(f"a process of the benchmark said nothing for {_WAIT_S:g} s")
    return connection.recv()


def measure_rates(
    folder: Path, size: int, clients: int, rounds: int
) -> Iterator[dict[str, float | int | str]]:
    """Move ``size`` bytes for each of the clients, every way and means in turn, each round."""
    with ExitStack() as stack:
        crews = {means: stack.enter_context(crew(means, folder, clients)) for means in MEANS}
        for number in range(-1, rounds):
            for way in WAYS:
                for means, ready in crews.items():
                    took = ready.move(way)
                    # Once unmeasured: logins, the first blocks of files.
                    if number >= 0:
                        yield {
                            "what": "rate",
                            "means": means,
                            "way": way,
                            "clients": clients,
                            "round": number,
                            "bytes": size * clients,
                            **asdict(took),
                        }


def make_file(folder: Path, size: int) -> None:
    """Make the file that is moved: bytes that no compression makes fewer."""
    with Path("/dev/urandom").open("rb") as source, (folder / "down").open("wb") as target:
        block = source.read(1 << 20)
        for _ in range(size >> 20):
            target.write(block)
