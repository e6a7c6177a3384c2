"""The FTP server against the standard library's client, over real sockets: what is cut off."""

from __future__ import annotations

import errno
import ftplib
import socket
from pathlib import Path

import pytest

from clusterray.head import ftp_data, ftp_files
from clusterray.head.ftp_server import FtpServer
from tests.head.ftp_clients import (
    WaitFor,
    begin_upload,
    connect,
    finish,
    login,
    store,
    write_grant,
)


@pytest.mark.parametrize(("size", "kept"), [(999, True), (1000, True), (1001, False)])
def test_an_upload_ends_at_its_limit(
    server: FtpServer, tmp_path: Path, size: int, kept: bool
) -> None:
    grant = write_grant(tmp_path, max_bytes=1000)
    server.grant(grant)
    with login(server, grant) as client:
        finish(begin_upload(client, b"x" * size))
        reply = client.getmultiline()
        assert reply[:3] == ("226" if kept else "552")
        assert grant.real.exists() == kept


@pytest.mark.parametrize(("announced", "most"), [(10, 10), (0, 0), (5000, 1000)])
def test_an_upload_ends_at_what_was_announced_if_that_is_less(
    server: FtpServer, tmp_path: Path, announced: int, most: int
) -> None:
    grant = write_grant(tmp_path, max_bytes=1000)
    server.grant(grant)
    server.announced(grant.user, announced)
    server.announced("nobody", 1)
    with login(server, grant) as client:
        finish(begin_upload(client, b"x" * (most + 1)))
        assert client.getmultiline().startswith(f"552 More than the {most} bytes")
        finish(begin_upload(client, b"x" * most))
        assert client.getmultiline().startswith("226")
        server.grant(grant)
        finish(begin_upload(client, b"x" * 1000))
        assert client.getmultiline().startswith("226"), "a new grant knows nothing of the old one"


def test_an_upload_under_way_is_cut_off_at_what_is_announced_meanwhile(
    server: FtpServer, tmp_path: Path, wait_for: WaitFor
) -> None:
    grant = write_grant(tmp_path, max_bytes=1 << 20)
    server.grant(grant)
    with login(server, grant) as client:
        data = begin_upload(client, b"x" * 1000)
        wait_for(lambda: grant.real.exists() and grant.real.stat().st_size == 1000)
        server.announced(grant.user, 1000)
        data.sendall(b"x")
        assert client.getmultiline().startswith("552")
        finish(data)
    assert not grant.real.exists()


def test_an_endless_upload_is_cut_off(server: FtpServer, tmp_path: Path) -> None:
    grant = write_grant(tmp_path, max_bytes=100_000)
    server.grant(grant)
    with login(server, grant) as client:
        data = client.transfercmd("STOR tile.png")
        with data, pytest.raises(OSError):
            for _ in range(10_000):
                data.sendall(b"x" * 100_000)
        with pytest.raises(ftplib.error_perm, match="552"):
            client.voidresp()
    assert not grant.real.exists()


def test_a_client_that_dies_leaves_no_file(
    server: FtpServer, tmp_path: Path, wait_for: WaitFor
) -> None:
    grant = write_grant(tmp_path)
    server.grant(grant)
    with login(server, grant) as client:
        data = begin_upload(client, b"half")
        wait_for(grant.real.exists)
        client.close()
        wait_for(lambda: not grant.real.exists())
        data.close()


def test_a_reset_is_not_the_end_of_the_file(
    server: FtpServer, tmp_path: Path, wait_for: WaitFor
) -> None:
    grant = write_grant(tmp_path)
    server.grant(grant)
    with login(server, grant) as client:
        data = begin_upload(client, b"half")
        wait_for(lambda: grant.real.exists() and grant.real.stat().st_size == 4)
        data.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        data.close()
        with pytest.raises(ftplib.error_temp, match="426"):
            client.voidresp()
    assert not grant.real.exists()


def test_abor_leaves_no_file(server: FtpServer, tmp_path: Path, wait_for: WaitFor) -> None:
    grant = write_grant(tmp_path)
    server.grant(grant)
    with login(server, grant) as client:
        data = begin_upload(client, b"half")
        wait_for(lambda: grant.real.exists() and grant.real.stat().st_size == 4)
        client.putcmd("ABOR")
        assert client.getmultiline()[:3] == "426"
        assert client.getmultiline()[:3] == "226"
        data.close()
        assert not grant.real.exists()
        store(client, "tile.png", b"again")
    assert grant.real.read_bytes() == b"again"


def test_the_end_of_a_dead_session_spares_what_a_second_one_stored(
    server: FtpServer, tmp_path: Path, wait_for: WaitFor
) -> None:
    grant = write_grant(tmp_path)
    server.grant(grant)
    with login(server, grant) as dead, login(server, grant) as alive:
        data = begin_upload(dead, b"half")
        wait_for(grant.real.exists)
        store(alive, "tile.png", b"whole")
        dead.close()
        data.close()
        wait_for(lambda: len(server._sessions) == 1)
    assert grant.real.read_bytes() == b"whole"


def test_a_full_disk_is_reported_in_words(
    server: FtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(upload: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    grant = write_grant(tmp_path)
    server.grant(grant)
    with login(server, grant) as client:
        monkeypatch.setattr(ftp_files.Upload, "write", full)
        with begin_upload(client, b"x"):
            pass
        with pytest.raises(ftplib.error_temp, match="452 No space left"):
            client.voidresp()
    assert not grant.real.exists()


def test_a_client_that_reads_no_replies_is_dropped(server: FtpServer, wait_for: WaitFor) -> None:
    deaf = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    with deaf, pytest.raises(OSError):
        for _ in range(200_000):
            deaf.sendall(b"NOOP\r\n" * 1000)
    wait_for(lambda: not server._sessions)


def test_a_line_without_end_is_refused(server: FtpServer) -> None:
    with connect(server) as client:
        assert client.sock is not None
        client.sock.sendall(b"USER " + b"x" * 5000)
        with pytest.raises(ftplib.error_perm, match="500"):
            client.getresp()


def test_a_transfer_without_a_byte_is_cut_off(
    server: FtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp_data._Bytes, "timeout", 0.2)
    grant = write_grant(tmp_path)
    server.grant(grant)
    with login(server, grant) as client:
        host, port = client.makepasv()
        with socket.create_connection((host, port), timeout=10) as data:
            client.sendcmd("STOR tile.png")
            data.sendall(b"half")
            with pytest.raises(ftplib.error_temp, match="timed out"):
                client.voidresp()
    assert not grant.real.exists()
