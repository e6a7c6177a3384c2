"""The FTP server against the standard library's client, over real sockets: TLS."""

from __future__ import annotations

import ftplib
import os
import socket
from contextlib import closing, suppress
from pathlib import Path

import pytest

from clusterray.head.certificate import HeadCertificate
from clusterray.head.ftp_server import FtpServer
from tests.head.ftp_clients import (
    SPEAK_TLS,
    begin_upload,
    login,
    read_grant,
    store,
    write_grant,
)


def test_no_login_is_taken_in_the_clear(
    sealed: tuple[FtpServer, HeadCertificate], tmp_path: Path
) -> None:
    server, _ = sealed
    grant = write_grant(tmp_path)
    server.grant(grant)
    with closing(ftplib.FTP(timeout=10)) as client:
        client.connect("127.0.0.1", server.port)
        with pytest.raises(ftplib.error_perm, match="550 SSL/TLS required"):
            client.login(grant.user, grant.password)
        with pytest.raises(ftplib.error_perm, match="550 SSL/TLS required"):
            client.sendcmd(f"PASS {grant.password}")


def test_no_file_goes_in_the_clear(
    sealed: tuple[FtpServer, HeadCertificate], tmp_path: Path
) -> None:
    server, _ = sealed
    grant = read_grant(tmp_path, b"scene")
    server.grant(grant)
    with closing(ftplib.FTP_TLS(timeout=10)) as client:
        client.connect("127.0.0.1", server.port)
        client.login(grant.user, grant.password)
        with pytest.raises(ftplib.error_perm, match="550 SSL/TLS required"):
            client.makepasv()
        client.prot_p()
        client.voidcmd("TYPE I")
        host, port = client.makepasv()
        with socket.create_connection((host, port), timeout=10) as bare:
            client.sendcmd("RETR scene.tar")
            bare.sendall(b"no handshake at all")
            with pytest.raises(ftplib.error_perm, match="522"):
                client.voidresp()
            with suppress(ConnectionError):
                assert b"scene" not in bare.recv(4096)


def test_protection_outlives_a_new_login(
    sealed: tuple[FtpServer, HeadCertificate], tmp_path: Path
) -> None:
    server, _ = sealed
    first, second = write_grant(tmp_path, "w1"), write_grant(tmp_path, "w2")
    server.grant(first)
    server.grant(second)
    SPEAK_TLS[server.port] = True
    with login(server, first) as client:
        store(client, "tile.png", b"one")
        client.login(second.user, second.password)
        store(client, "tile.png", b"two")
    assert second.real.read_bytes() == b"two"


def test_a_cut_connection_is_not_the_end_of_the_file(
    sealed: tuple[FtpServer, HeadCertificate], tmp_path: Path
) -> None:
    server, _ = sealed
    grant = write_grant(tmp_path)
    server.grant(grant)
    SPEAK_TLS[server.port] = True
    with login(server, grant) as client:
        begin_upload(client, b"half").close()
        with pytest.raises(ftplib.error_temp, match="426"):
            client.voidresp()
    assert not grant.real.exists()


def send_beneath_tls(sock: socket.socket | None, data: bytes) -> None:
    """Send as they are bytes that the other end takes for a record of TLS."""
    assert sock is not None
    with socket.socket(fileno=os.dup(sock.fileno())) as beneath:
        beneath.sendall(data)


NO_RECORD = b"\x17\x03\x03\x00\x40" + b"x" * 64


def test_a_session_that_breaks_its_tls_costs_nobody_else_anything(
    sealed: tuple[FtpServer, HeadCertificate], tmp_path: Path
) -> None:
    server, _ = sealed
    first, second = write_grant(tmp_path, "w1"), write_grant(tmp_path, "w2")
    server.grant(first)
    server.grant(second)
    SPEAK_TLS[server.port] = True
    with login(server, second) as good:
        with login(server, first) as bad, pytest.raises((EOFError, OSError)):
            send_beneath_tls(bad.sock, NO_RECORD)
            bad.getresp()
        server.revoke(first.user)
        store(good, "tile.png", b"untouched")
        with login(server, second) as late:
            store(late, "tile.png", b"let in")


def test_an_upload_that_breaks_its_tls_is_answered_and_leaves_no_file(
    sealed: tuple[FtpServer, HeadCertificate], tmp_path: Path
) -> None:
    server, _ = sealed
    grant = write_grant(tmp_path)
    server.grant(grant)
    SPEAK_TLS[server.port] = True
    with login(server, grant) as client:
        with begin_upload(client, b"half") as data:
            send_beneath_tls(data, NO_RECORD)
            with pytest.raises(ftplib.error_temp, match="426"):
                client.voidresp()
        store(client, "tile.png", b"again")
    assert grant.real.read_bytes() == b"again"


def test_a_peer_that_never_shakes_hands_keeps_nobody_waiting(
    sealed: tuple[FtpServer, HeadCertificate], tmp_path: Path
) -> None:
    server, _ = sealed
    grant = write_grant(tmp_path)
    server.grant(grant)
    SPEAK_TLS[server.port] = True
    with ftplib.FTP(timeout=10) as mute:
        mute.connect("127.0.0.1", server.port)
        mute.sendcmd("AUTH TLS")
        with login(server, grant) as client:
            store(client, "tile.png", b"mine")
    assert grant.real.read_bytes() == b"mine"


def test_a_reader_that_never_shakes_hands_costs_no_time(
    sealed: tuple[FtpServer, HeadCertificate], tmp_path: Path
) -> None:
    server, _ = sealed
    first, second = read_grant(tmp_path, b"scene", "r1"), write_grant(tmp_path)
    server.grant(first)
    server.grant(second)
    SPEAK_TLS[server.port] = True
    with login(server, first) as client, login(server, second) as other:
        client.voidcmd("TYPE I")
        host, port = client.makepasv()
        with socket.create_connection((host, port), timeout=10):
            client.sendcmd("RETR scene.tar")
            store(other, "tile.png", b"1")
            polls = count_polls(server)
            store(other, "tile.png", b"2")
            assert len(polls) < 50
            client.close()


def count_polls(server: FtpServer) -> list[float | None]:
    """Note each turn of the server's loop from now on."""
    turns: list[float | None] = []
    poll = server._loop.poll

    def counted(timeout: float | None) -> None:
        turns.append(timeout)
        poll(timeout)

    server._loop.poll = counted
    return turns
