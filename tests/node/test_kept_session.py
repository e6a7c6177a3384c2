"""One FTP session for many files, each under a login of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterray.head.certificate import head_certificate
from clusterray.head.ftp_server import FtpServer
from clusterray.head.grants import FileGrant
from clusterray.node.kept_session import KeptSession
from clusterray.wire.protocol import Grant

Place = tuple[str, int, str]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[FtpServer, Place]]:
    certificate = head_certificate(tmp_path)
    server = FtpServer("127.0.0.1", 0, pem=certificate.pem)
    server.start()
    yield server, ("127.0.0.1", server.port, certificate.fingerprint)
    server.stop()


def fetch(kept: KeptSession, place: Place, server: FtpServer, folder: Path, name: str) -> bytes:
    """Fetch a file under a login that ends with it, as an attempt's does."""
    (folder / name).write_text(name)
    server.grant(FileGrant(name, "pw", "file", folder / name, "read"))
    target = folder / f"got-{name}"
    kept.to(place).download(Grant(name, "pw", "file"), target)
    server.revoke(name)
    return target.read_bytes()


def test_files_of_many_logins_come_by_one_session(
    served: tuple[FtpServer, Place], tmp_path: Path
) -> None:
    server, place = served
    kept, seen = KeptSession(), set()
    for number in range(5):
        name = f"r{number}"
        assert fetch(kept, place, server, tmp_path, name) == name.encode()
        seen |= server._sessions
    kept.close()
    assert len(seen) == 1


def test_a_session_that_was_ended_is_opened_again(
    served: tuple[FtpServer, Place], tmp_path: Path
) -> None:
    server, place = served
    kept = KeptSession()
    assert fetch(kept, place, server, tmp_path, "r1") == b"r1"
    (session,) = server._sessions
    session.socket.sock_shutdown(2)
    assert fetch(kept, place, server, tmp_path, "r2") == b"r2"
    kept.close()


def test_another_head_gets_another_session(served: tuple[FtpServer, Place], tmp_path: Path) -> None:
    server, place = served
    kept = KeptSession()
    first = kept.to(place)
    assert kept.to(place) is first
    assert kept.to(("127.0.0.1", server.port, "0" * 64)) is not first
    kept.close()
