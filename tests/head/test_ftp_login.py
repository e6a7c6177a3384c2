"""The FTP server against the standard library's client, over real sockets: logins."""

from __future__ import annotations

import ftplib
import select
import socket
from contextlib import closing
from pathlib import Path

import pytest

from clusterray.head import ftp_server, ftp_session
from clusterray.head.ftp_server import FtpServer
from clusterray.head.grants import FileGrant
from tests.head.ftp_clients import (
    TlsClient,
    begin_upload,
    connect,
    fetch,
    finish,
    login,
    read_grant,
    refused,
    store,
    write_grant,
)


@pytest.mark.parametrize(
    ("user", "password"),
    [("w1", "wrong"), ("w1", ""), ("nobody", "pw-w1"), ("anonymous", "a@b"), ("é\x7f", "é")],
)
def test_a_wrong_login_is_refused_and_a_right_one_may_follow(
    server: FtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str, password: str
) -> None:
    monkeypatch.setattr(ftp_session.Session, "auth_failed_timeout", 0.0)
    grant = write_grant(tmp_path)
    server.grant(grant)
    with connect(server) as wrong:
        wrong.sendcmd(f"USER {user}")
        assert refused(wrong, f"PASS {password}") == "530"
        wrong.login(grant.user, grant.password)
        store(wrong, "tile.png", b"better late")
    assert grant.real.read_bytes() == b"better late"


def test_a_wrong_login_is_answered_after_a_while_and_holds_up_nobody(
    server: FtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp_session.Session, "auth_failed_timeout", 3600.0)
    grant = write_grant(tmp_path)
    server.grant(grant)
    with closing(connect(server)) as wrong:
        wrong.sendcmd("USER nobody")
        wrong.putcmd("PASS guess")
        with login(server, grant) as right:
            store(right, "tile.png", b"meanwhile")
        assert wrong.sock is not None
        assert select.select([wrong.sock], [], [], 0)[0] == []


def test_an_empty_password_opens_nothing(
    server: FtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp_session.Session, "auth_failed_timeout", 0.0)
    server.grant(FileGrant("w1", "", "tile.png", tmp_path / "x", "write"))
    with connect(server) as client:
        client.sendcmd("USER w1")
        assert refused(client, "PASS ") == "530"


def test_three_wrong_logins_end_the_session(
    server: FtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp_session.Session, "auth_failed_timeout", 0.0)
    with connect(server) as client:
        for _ in range(3):
            client.sendcmd("USER w1")
            assert refused(client, "PASS guess") == "530"
        with pytest.raises((EOFError, ConnectionError)):
            client.sendcmd("USER w1")


def test_a_new_login_in_a_session_changes_its_grant(server: FtpServer, tmp_path: Path) -> None:
    read, first, second = (
        read_grant(tmp_path, b"scene"),
        write_grant(tmp_path, "w1"),
        write_grant(tmp_path, "w2"),
    )
    for grant in (read, first, second):
        server.grant(grant)
    with login(server, read) as client:
        assert fetch(client, "scene.tar") == b"scene"
        client.login(first.user, first.password)
        store(client, "tile.png", b"one")
        with pytest.raises(ftplib.error_perm, match="550"):
            fetch(client, "scene.tar")
        client.login(second.user, second.password)
        store(client, "tile.png", b"two")
    assert (first.real.read_bytes(), second.real.read_bytes()) == (b"one", b"two")


def test_a_new_login_ends_the_transfer_of_the_old_one(server: FtpServer, tmp_path: Path) -> None:
    first, second = write_grant(tmp_path, "w1"), write_grant(tmp_path, "w2")
    server.grant(first)
    server.grant(second)
    with login(server, first) as client:
        with begin_upload(client, b"half"):
            client.putcmd(f"USER {second.user}")
            replies = {client.getmultiline()[:3], client.getmultiline()[:3]}
        assert replies == {"426", "331"}
        client.sendcmd(f"PASS {second.password}")
        store(client, "tile.png", b"whole")
    assert not first.real.exists()
    assert second.real.read_bytes() == b"whole"


def test_a_queued_file_does_not_survive_a_new_login(server: FtpServer, tmp_path: Path) -> None:
    first, second = write_grant(tmp_path, "w1"), write_grant(tmp_path, "w2")
    server.grant(first)
    server.grant(second)
    with login(server, first) as client:
        client.makepasv()
        assert client.sendcmd("STOR tile.png").startswith("150")
        client.login(second.user, second.password)
        store(client, "tile.png", b"two")
    assert not first.real.exists()
    assert second.real.read_bytes() == b"two"


def test_a_queued_file_does_not_get_the_next_connections_bytes(
    server: FtpServer, tmp_path: Path
) -> None:
    grant = write_grant(tmp_path)
    server.grant(grant)
    with login(server, grant) as client:
        client.makepasv()
        assert client.sendcmd("STOR tile.png").startswith("150")
        host, port = client.makepasv()
        assert not grant.real.exists()
        with socket.create_connection((host, port), timeout=10) as bare:
            assert client.sendcmd("STOR tile.png")[:3] in ("150", "125")
            with pytest.raises(ftplib.error_temp, match="425"):
                client.sendcmd("STOR tile.png")
            finish(client.context.wrap_socket(bare) if isinstance(client, TlsClient) else bare)
        assert client.voidresp().startswith("226")


def test_a_login_right_after_grant_works_every_time(server: FtpServer, tmp_path: Path) -> None:
    with connect(server) as client:
        for number in range(100):
            grant = write_grant(tmp_path, f"w{number}")
            server.grant(grant)
            client.login(grant.user, grant.password)


def test_several_sessions_share_a_login(server: FtpServer, tmp_path: Path) -> None:
    grant = read_grant(tmp_path, b"scene" * 1000)
    server.grant(grant)
    with login(server, grant) as one, login(server, grant) as two:
        assert fetch(one, "scene.tar") == fetch(two, "scene.tar") == b"scene" * 1000


def test_sessions_without_login_are_closed(
    nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp_server, "LOGIN_SECONDS", 0.0)
    monkeypatch.setattr(ftp_server, "_SWEEP_S", 0.02)
    server = FtpServer("127.0.0.1", 0)
    server.start()
    try:
        # It may be closed before it is greeted.
        with pytest.raises((EOFError, ConnectionError)), connect(server) as client:
            client.getresp()
    finally:
        server.stop()


def test_a_session_that_was_let_in_once_may_wait_for_its_next_login(
    nothing_left: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FtpServer("127.0.0.1", 0)
    first, second = write_grant(tmp_path, "w1"), write_grant(tmp_path, "w2")
    server.grant(first)
    server.start()
    try:
        with login(server, first) as client:
            monkeypatch.setattr(ftp_server, "LOGIN_SECONDS", 0.0)
            server.revoke(first.user)
            assert refused(client, "NOOP") == "530"
            server._sweep()
            server.grant(second)
            client.login(second.user, second.password)
            store(client, "tile.png", b"two")
        assert second.real.read_bytes() == b"two"
    finally:
        server.stop()
