"""The FTP server against the standard library's client, over real sockets: revoked grants."""

from __future__ import annotations

import ftplib
from contextlib import suppress
from pathlib import Path

import pytest

from clusterray.head import ftp_session
from clusterray.head.ftp_server import FtpServer
from clusterray.head.grants import FileGrant
from tests.head.ftp_clients import (
    WaitFor,
    begin_upload,
    connect,
    login,
    read_grant,
    refused,
    store,
    write_grant,
)


def test_a_revoked_login_opens_nothing(
    server: FtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp_session.Session, "auth_failed_timeout", 0.0)
    grant = write_grant(tmp_path)
    server.grant(grant)
    server.revoke(grant.user)
    with connect(server) as client:
        client.sendcmd(f"USER {grant.user}")
        assert refused(client, f"PASS {grant.password}") == "530"


def test_revoke_in_the_middle_of_an_upload_closes_the_session_and_leaves_no_file(
    server: FtpServer, tmp_path: Path, wait_for: WaitFor
) -> None:
    grant, other = write_grant(tmp_path), write_grant(tmp_path, "w2")
    server.grant(grant)
    server.grant(other)
    with login(server, grant) as client, login(server, other) as bystander:
        with begin_upload(client, b"x" * 100_000):
            wait_for(lambda: grant.real.exists() and grant.real.stat().st_size == 100_000)
            server.revoke(grant.user)
            with pytest.raises((EOFError, ConnectionError)):
                while True:
                    client.getmultiline()
        assert not grant.real.exists()
        store(bystander, "tile.png", b"untouched")
    assert other.real.read_bytes() == b"untouched"


def test_revoke_in_the_middle_of_a_download_closes_the_session(
    server: FtpServer, tmp_path: Path
) -> None:
    grant = read_grant(tmp_path, b"s" * 50_000_000)
    server.grant(grant)
    with login(server, grant) as client, client.transfercmd("RETR scene.tar") as data:
        received = len(data.recv(1000))
        server.revoke(grant.user)
        with suppress(ConnectionError):
            while chunk := data.recv(1 << 20):
                received += len(chunk)
        assert received < 50_000_000


def test_no_transfer_begins_once_revoke_has_returned(server: FtpServer, tmp_path: Path) -> None:
    grant = write_grant(tmp_path)
    server.grant(grant)
    with login(server, grant) as client:
        client.makepasv()
        server.revoke(grant.user)
        assert refused(client, "STOR tile.png") == "530"
    assert not grant.real.exists()


def test_an_upload_that_ends_after_revoke_is_not_reported_as_complete(
    server: FtpServer, tmp_path: Path, wait_for: WaitFor
) -> None:
    grant = write_grant(tmp_path)
    server.grant(grant)
    with login(server, grant) as client:
        data = begin_upload(client, b"all of it")
        wait_for(grant.real.exists)
        server.revoke(grant.user)
        data.close()
        with pytest.raises((EOFError, ConnectionError, ftplib.Error)):
            client.voidresp()
    wait_for(lambda: not grant.real.exists())


def test_a_revoked_session_between_transfers_can_take_another_login(
    server: FtpServer, tmp_path: Path
) -> None:
    first, second = write_grant(tmp_path, "w1"), write_grant(tmp_path, "w2")
    server.grant(first)
    with login(server, first) as client:
        store(client, "tile.png", b"one")
        server.revoke(first.user)
        assert refused(client, "EPSV") == "530"
        server.grant(second)
        client.login(second.user, second.password)
        store(client, "tile.png", b"two")
    assert first.real.read_bytes() == b"one", "what was whole before stays"
    assert second.real.read_bytes() == b"two"


def test_a_grant_of_the_same_user_replaces_the_old_one(server: FtpServer, tmp_path: Path) -> None:
    old = write_grant(tmp_path)
    new = FileGrant(old.user, "fresh", old.path, tmp_path / "new.part", "write")
    server.grant(old)
    with login(server, old) as client:
        client.makepasv()
        server.grant(new)
        assert refused(client, "STOR tile.png") == "530"
        client.login(new.user, new.password)
        store(client, "tile.png", b"x")
    assert new.real.exists()
    assert not old.real.exists()
