"""Fixtures of the head's tests: nothing may be left behind; FTP servers, plain and with TLS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterray.head.certificate import HeadCertificate, head_certificate
from clusterray.head.ftp_server import FtpServer
from tests.head.ftp_clients import SPEAK_TLS


def _threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def _open_files() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails the test if a thread or a file descriptor of it is still there afterwards."""
    threads, files = _threads(), len(_open_files())
    yield
    assert _threads() - threads == set()
    assert len(_open_files()) <= files


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Gives ``wait_for(condition)``: returns as soon as it holds, fails after ten seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10.0
        while not condition():
            assert time.monotonic() < deadline, "waited ten seconds in vain"
            threading.Event().wait(0.005)

    return wait


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Gives a folder with the smallest scene there is."""
    folder = tmp_path / "scene"
    folder.mkdir()
    (folder / "a.pov").write_text("sphere { 0, 1 }\n")
    return folder


@pytest.fixture(params=["plain", "tls"])
def server(
    nothing_left: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FtpServer]:
    pem = None
    if request.param == "tls":
        pem = head_certificate(tmp_path_factory.mktemp("state")).pem
    server = FtpServer("127.0.0.1", 0, pem=pem)
    server.start()
    SPEAK_TLS[server.port] = pem is not None
    yield server
    server.stop()


@pytest.fixture
def sealed(nothing_left: None, tmp_path: Path) -> Iterator[tuple[FtpServer, HeadCertificate]]:
    state = tmp_path / "state"
    state.mkdir()
    certificate = head_certificate(state)
    server = FtpServer("127.0.0.1", 0, pem=certificate.pem)
    server.start()
    yield server, certificate
    server.stop()
