"""sd_notify as a service manager sees it: over a real datagram socket."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clusterray.cli.notify import READY, STOPPING, notify, status


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(5)
        yield listening


def test_path_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with manager(address) as listening:
        assert notify(READY)
        assert listening.recv(4096) == b"READY=1"


def test_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"clusterray-test-{uuid.uuid4()}"
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
    with manager("\0" + name) as listening:
        assert notify(STOPPING)
        assert listening.recv(4096) == b"STOPPING=1"


def test_several_lines_are_one_datagram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with manager(address) as listening:
        assert notify(READY + "\n" + status("drei Bänder\n auf zwei Kernen"))
        assert listening.recv(4096).decode() == "READY=1\nSTATUS=drei Bänder auf zwei Kernen"


def test_no_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify(READY)


@pytest.mark.parametrize("name", ["", "@", "/", "relative/path"])
def test_a_name_that_is_no_socket(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    assert not notify(READY)


def test_manager_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tmp_path / "notify"
    with manager(str(address)):
        pass
    monkeypatch.setenv("NOTIFY_SOCKET", str(address))
    assert address.exists()
    assert not notify(READY)


def test_a_manager_that_does_not_read_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with manager(address):
        answers = [notify(READY) for _ in range(10_000)]
    assert answers[0]
    assert not answers[-1]
