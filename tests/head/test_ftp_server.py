"""The FTP server against the standard library's client, over real sockets: the server itself."""

from __future__ import annotations

import ftplib
import logging
import socket
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest

from clusterray.core.errors import LocalFault
from clusterray.head.ftp_server import FtpLimits, FtpServer
from tests.head.ftp_clients import (
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


@pytest.mark.slow
def test_two_hundred_sessions(server: FtpServer, tmp_path: Path) -> None:
    grants = [write_grant(tmp_path, f"w{number}") for number in range(200)]
    clients: list[ftplib.FTP] = []
    try:
        for grant in grants:
            server.grant(grant)
            clients.append(login(server, grant))
        uploads = [begin_upload(client, b"first half ") for client in clients]
        for number, upload in enumerate(uploads):
            upload.sendall(f"and {number}".encode())
            finish(upload)
        for client in clients:
            assert client.voidresp().startswith("226")
    finally:
        for client in clients:
            client.close()
    for number, grant in enumerate(grants):
        assert grant.real.read_bytes() == f"first half and {number}".encode()


def test_stop_ends_everything(tmp_path: Path, nothing_left: None) -> None:
    server = FtpServer("127.0.0.1", 0)
    server.start()
    assert [thread.name for thread in threading.enumerate()].count("ftp") == 1
    up, down = write_grant(tmp_path), read_grant(tmp_path, b"s" * 50_000_000)
    server.grant(up)
    server.grant(down)
    wrong, queued, uploading, downloading = (connect(server) for _ in range(4))
    with wrong, queued, uploading, downloading:
        for client, grant in ((queued, up), (uploading, up), (downloading, down)):
            client.login(grant.user, grant.password)
        wrong.sendcmd("USER nobody")
        wrong.putcmd("PASS nothing")
        with begin_upload(uploading, b"half"), downloading.transfercmd("RETR scene.tar"):
            queued.makepasv()
            queued.sendcmd("STOR tile.png")
            server.stop()
            assert not up.real.exists()
        server.stop()
        server.grant(up)
        server.revoke(up.user)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


def test_stop_without_start(nothing_left: None) -> None:
    FtpServer("127.0.0.1", 0).stop()


def test_servers_do_not_share_settings(tmp_path: Path, nothing_left: None) -> None:
    one, two = FtpServer("127.0.0.1", 0), FtpServer("127.0.0.1", 0, (40000, 40100), "192.0.2.1")
    one.start()
    two.start()
    try:
        grant = write_grant(tmp_path)
        two.grant(grant)
        with login(two, grant) as client:
            _host, port = client.makepasv()
            assert 40000 <= port <= 40100
        one.grant(grant)
        with login(one, grant) as client:
            client.af = socket.AF_INET
            assert "192,0,2,1" not in client.sendcmd("PASV")
    finally:
        one.stop()
        two.stop()


def test_without_a_free_passive_port_the_client_is_told(tmp_path: Path, nothing_left: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = FtpServer("127.0.0.1", 0, (port, port))
        server.start()
        try:
            grant = write_grant(tmp_path)
            server.grant(grant)
            with login(server, grant) as client:
                with pytest.raises(ftplib.error_temp, match="425"):
                    client.sendcmd("EPSV")
                client.sendcmd("NOOP")
        finally:
            server.stop()


def test_a_taken_address_is_a_fault_in_words(nothing_left: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalFault, match=rf"127\.0\.0\.1:{port}.*--ftp-port"):
            FtpServer("127.0.0.1", port)


def test_it_sets_up_no_logging_and_writes_no_password(
    server: FtpServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = list(logging.root.handlers)
    grant = write_grant(tmp_path)
    server.grant(grant)
    with caplog.at_level(logging.DEBUG), login(server, grant) as client:
        store(client, "tile.png", b"x")
        refused(client, "DELE x")
    assert logging.root.handlers == handlers
    assert grant.password not in caplog.text


def test_of_too_many_sessions_without_a_login_the_oldest_goes(
    server: FtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_limits", FtpLimits(strangers_per_address=3))
    grant = write_grant(tmp_path)
    server.grant(grant)
    with login(server, grant) as good:
        strangers = [connect(server) for _ in range(5)]
        with pytest.raises((EOFError, ConnectionError)):
            strangers[0].voidcmd("NOOP")
        store(good, "tile.png", b"untouched")
        with login(server, grant) as late:
            store(late, "tile.png", b"let in")
        for stranger in strangers:
            stranger.close()


def test_data_goes_to_nobody_but_the_sessions_own_address(
    server: FtpServer, tmp_path: Path
) -> None:
    grant = read_grant(tmp_path, b"scene")
    server.grant(grant)
    with login(server, grant) as client:
        client.voidcmd("TYPE I")
        host, port = client.makepasv()
        elsewhere = ("127.0.0.2", 0)
        with socket.create_connection((host, port), timeout=10, source_address=elsewhere) as thief:
            assert client.getmultiline().startswith("425")
            with suppress(ConnectionError):
                assert thief.recv(10) == b""
        assert fetch(client, "scene.tar") == b"scene"


def test_who_may_not_knock_gets_no_session(nothing_left: None) -> None:
    server = FtpServer("127.0.0.1", 0, may_knock=lambda address: False)
    server.start()
    try:
        with closing(ftplib.FTP(timeout=10)) as client, pytest.raises((EOFError, ftplib.Error)):
            client.connect("127.0.0.1", server.port)
            client.voidcmd("NOOP")
    finally:
        server.stop()


def test_one_address_has_so_many_sessions_and_no_more(
    server: FtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server._listener, "max_cons_per_ip", 3)
    grant = write_grant(tmp_path)
    server.grant(grant)
    sessions = [login(server, grant) for _ in range(3)]
    with pytest.raises(ftplib.error_temp, match="421 Too many connections from the same IP"):
        connect(server)
    store(sessions[0], "tile.png", b"still served")
    for session in sessions:
        session.quit()


def test_a_fault_of_its_thread_is_told_and_leaves_no_socket(
    nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = threading.Event()
    server = FtpServer("127.0.0.1", 0, on_crash=told.set)
    monkeypatch.setattr(server, "drain", lambda: 1 / 0)
    server.start()
    # Any byte makes the thread look what is to be done.
    with socket.create_connection(("127.0.0.1", server.port), timeout=10):
        assert told.wait(10)
    server.stop()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=10).close()
