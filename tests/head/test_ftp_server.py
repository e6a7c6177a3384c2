"""The FTP server against the standard library's client, over real sockets."""

from __future__ import annotations

import errno
import ftplib
import io
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from clusterray.core.errors import LocalFault
from clusterray.head import ftp_server
from clusterray.head.certificate import HeadCertificate, head_certificate
from clusterray.head.ftp_server import FtpLimits, FtpServer
from clusterray.head.grants import FileGrant

WaitFor = Callable[[Callable[[], bool]], None]


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


SPEAK_TLS: dict[int, bool] = {}


class TlsClient(ftplib.FTP_TLS):
    """The standard library's client, with protected data from the start."""

    def connect(self, *args: Any, **kwargs: Any) -> str:
        welcome = super().connect(*args, **kwargs)
        self.auth()
        self.prot_p()
        return welcome


def connect(server: FtpServer) -> ftplib.FTP:
    client = TlsClient(timeout=10) if SPEAK_TLS.get(server.port) else ftplib.FTP(timeout=10)
    client.connect("127.0.0.1", server.port)
    return client


def login(server: FtpServer, grant: FileGrant) -> ftplib.FTP:
    client = connect(server)
    client.login(grant.user, grant.password)
    return client


def write_grant(folder: Path, user: str = "w1", max_bytes: int | None = None) -> FileGrant:
    return FileGrant(user, f"pw-{user}", "tile.png", folder / f"{user}.part", "write", max_bytes)


def read_grant(folder: Path, content: bytes, user: str = "r1") -> FileGrant:
    real = folder / f"{user}.tar"
    real.write_bytes(content)
    return FileGrant(user, f"pw-{user}", "scene.tar", real, "read")


def store(client: ftplib.FTP, name: str, content: bytes) -> str:
    return client.storbinary(f"STOR {name}", io.BytesIO(content))


def fetch(client: ftplib.FTP, name: str) -> bytes:
    got = io.BytesIO()
    client.retrbinary(f"RETR {name}", got.write)
    return got.getvalue()


def refused(client: ftplib.FTP, line: str) -> str:
    with pytest.raises(ftplib.error_perm) as caught:
        client.sendcmd(line)
    return str(caught.value)[:3]


def begin_upload(client: ftplib.FTP, content: bytes) -> socket.socket:
    """Send ``content`` as the beginning of a STOR that goes on."""
    data = client.transfercmd("STOR tile.png")
    data.sendall(content)
    return data


def finish(data: socket.socket) -> None:
    """Say that the file has ended, and close."""
    if isinstance(data, ssl.SSLSocket):
        # The server may have cut it off already.
        with suppress(OSError):
            data.unwrap()
    data.close()


# ---------------------------------------------------------------- what a grant allows


def test_a_write_grant_stores_its_file_for_the_owner_only(
    server: FtpServer, tmp_path: Path
) -> None:
    grant = write_grant(tmp_path)
    server.grant(grant)
    content = os.urandom(3_000_000)
    with login(server, grant) as client:
        assert store(client, "tile.png", content).startswith("226")
    assert grant.real.read_bytes() == content
    assert grant.real.stat().st_mode & 0o777 == 0o600


def test_a_read_grant_gives_its_file(server: FtpServer, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    grant = read_grant(tmp_path, content)
    server.grant(grant)
    with login(server, grant) as client:
        assert fetch(client, "scene.tar") == content
        assert fetch(client, "/scene.tar") == content


def test_an_empty_file_goes_both_ways(server: FtpServer, tmp_path: Path) -> None:
    up, down = write_grant(tmp_path), read_grant(tmp_path, b"")
    server.grant(up)
    server.grant(down)
    with login(server, up) as client:
        store(client, "tile.png", b"")
    with login(server, down) as client:
        assert fetch(client, "scene.tar") == b""
    assert up.real.read_bytes() == b""


def test_pasv_works_as_well_as_epsv(tmp_path: Path, nothing_left: None) -> None:
    server = FtpServer("127.0.0.1", 0, masquerade="192.0.2.7")
    server.start()
    try:
        grant = write_grant(tmp_path)
        server.grant(grant)
        with login(server, grant) as client:
            client.af = socket.AF_INET
            assert "192,0,2,7" in client.sendcmd("PASV")
            store(client, "tile.png", b"by pasv")
        assert grant.real.read_bytes() == b"by pasv"
    finally:
        server.stop()


def test_a_second_store_replaces_the_first(server: FtpServer, tmp_path: Path) -> None:
    grant = write_grant(tmp_path)
    server.grant(grant)
    with login(server, grant) as client:
        store(client, "tile.png", b"a long first try")
        store(client, "tile.png", b"second")
    assert grant.real.read_bytes() == b"second"


def test_a_link_in_the_way_is_not_written_through(server: FtpServer, tmp_path: Path) -> None:
    grant = write_grant(tmp_path)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    grant.real.symlink_to(victim)
    server.grant(grant)
    with login(server, grant) as client:
        store(client, "tile.png", b"tile")
    assert victim.read_bytes() == b"precious"
    assert not grant.real.is_symlink()


def test_links_and_folders_are_not_read(server: FtpServer, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"secret")
    link = tmp_path / "link"
    link.symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    for number, real in enumerate((link, tmp_path, tmp_path / "pipe", tmp_path / "absent")):
        grant = FileGrant(f"r{number}", "pw", "scene.tar", real, "read")
        server.grant(grant)
        with login(server, grant) as client, pytest.raises(ftplib.error_perm, match="550"):
            fetch(client, "scene.tar")


# ---------------------------------------------------------------- what nobody may


@pytest.mark.parametrize(
    "line",
    [
        "LIST", "LIST /", "NLST", "MLSD", "MLST", "STAT", "STAT /", "CWD ..", "CWD /", "CDUP",
        "XCWD /tmp", "PWD", "MKD x", "RMD x", "DELE tile.png", "RNFR tile.png", "RNTO y",
        "APPE tile.png", "STOU", "REST 5", "SIZE tile.png", "MDTM tile.png", "MFMT 2020 tile.png",
        "SITE CHMOD 777 tile.png", "SITE HELP", "HELP", "FEAT", "OPTS UTF8 ON", "SYST", "REIN",
        "ALLO 5", "STRU F", "MODE S", "PORT 127,0,0,1,200,200", "EPRT |1|127.0.0.1|50000|",
        "PORT 192,0,2,1,0,22", "CCC", "XSTAT", "", "\x00", "é",
    ],
)  # fmt: skip
def test_commands_that_no_transfer_needs_are_refused(
    server: FtpServer, tmp_path: Path, line: str
) -> None:
    grant = write_grant(tmp_path)
    server.grant(grant)
    with login(server, grant) as client:
        assert refused(client, line) == "502"
        store(client, "tile.png", b"still fine")
    assert grant.real.read_bytes() == b"still fine"


def test_text_mode_is_refused(server: FtpServer, tmp_path: Path) -> None:
    grant = read_grant(tmp_path, b"one\ntwo\n")
    server.grant(grant)
    with login(server, grant) as client:
        assert refused(client, "TYPE A") == "504"
        with closing(client.transfercmd("RETR scene.tar")) as data:
            assert data.makefile("rb").read() == b"one\ntwo\n"
        client.voidresp()


@pytest.mark.parametrize(
    "name",
    [
        "../tile.png", "/../tile.png", "./tile.png", "//tile.png", "tile.png/", "TILE.PNG",
        "other.png", "tile.png\x00", "/etc/passwd", "x/../tile.png", "tile.png ", "~", "*",
    ],
)  # fmt: skip
def test_only_the_granted_name_is_known(server: FtpServer, tmp_path: Path, name: str) -> None:
    grant = write_grant(tmp_path)
    server.grant(grant)
    with login(server, grant) as client:
        with pytest.raises(ftplib.error_perm, match="550"):
            store(client, name, b"x")
        with pytest.raises(ftplib.error_perm, match="550"):
            fetch(client, name)
    assert list(tmp_path.iterdir()) == []


def test_a_grant_works_in_its_own_direction_only(server: FtpServer, tmp_path: Path) -> None:
    read, write = read_grant(tmp_path, b"scene"), write_grant(tmp_path)
    write.real.write_bytes(b"tile")
    server.grant(read)
    server.grant(write)
    with login(server, read) as client, pytest.raises(ftplib.error_perm, match="550"):
        store(client, "scene.tar", b"overwritten")
    with login(server, write) as client, pytest.raises(ftplib.error_perm, match="550"):
        fetch(client, "tile.png")
    assert read.real.read_bytes() == b"scene"


def test_nothing_works_before_login(server: FtpServer) -> None:
    with connect(server) as client:
        for line in ("STOR tile.png", "RETR scene.tar", "EPSV", "PASV", "NOOP", "TYPE I", "ABOR"):
            assert refused(client, line) == "530"


def test_a_transfer_needs_its_data_connection_first(server: FtpServer, tmp_path: Path) -> None:
    grant = write_grant(tmp_path)
    server.grant(grant)
    with login(server, grant) as client, pytest.raises(ftplib.error_temp, match="425"):
        client.sendcmd("STOR tile.png")
    assert not grant.real.exists()


# ---------------------------------------------------------------- login


@pytest.mark.parametrize(
    ("user", "password"),
    [("w1", "wrong"), ("w1", ""), ("nobody", "pw-w1"), ("anonymous", "a@b"), ("é\x7f", "é")],
)
def test_a_wrong_login_is_refused_after_a_while_and_holds_up_nobody(
    server: FtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str, password: str
) -> None:
    monkeypatch.setattr(ftp_server._Session, "auth_failed_timeout", 0.3)
    grant = write_grant(tmp_path)
    server.grant(grant)
    with connect(server) as wrong:
        wrong.sendcmd(f"USER {user}")
        wrong.putcmd(f"PASS {password}")
        begun = time.monotonic()
        with login(server, grant) as right:
            store(right, "tile.png", b"meanwhile")
        assert time.monotonic() - begun < 0.3
        with pytest.raises(ftplib.error_perm, match="530"):
            wrong.getresp()
        wrong.login(grant.user, grant.password)
        store(wrong, "tile.png", b"better late")
    assert grant.real.read_bytes() == b"better late"


def test_an_empty_password_opens_nothing(
    server: FtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp_server._Session, "auth_failed_timeout", 0.0)
    server.grant(FileGrant("w1", "", "tile.png", tmp_path / "x", "write"))
    with connect(server) as client:
        client.sendcmd("USER w1")
        assert refused(client, "PASS ") == "530"


def test_three_wrong_logins_end_the_session(
    server: FtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp_server._Session, "auth_failed_timeout", 0.0)
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


# ---------------------------------------------------------------- revoked


def test_a_revoked_login_opens_nothing(
    server: FtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp_server._Session, "auth_failed_timeout", 0.0)
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


def test_sessions_without_login_are_closed(
    nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp_server, "LOGIN_SECONDS", 0.0)
    monkeypatch.setattr(ftp_server, "_SWEEP_S", 0.02)
    server = FtpServer("127.0.0.1", 0)
    server.start()
    try:
        with connect(server) as client, pytest.raises((EOFError, ConnectionError)):
            client.getresp()
    finally:
        server.stop()


# ---------------------------------------------------------------- cut off


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
        monkeypatch.setattr(ftp_server._Upload, "write", full)
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


# ---------------------------------------------------------------- the server itself


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


# ---------------------------------------------------------------- TLS


@pytest.fixture
def sealed(nothing_left: None, tmp_path: Path) -> Iterator[tuple[FtpServer, HeadCertificate]]:
    state = tmp_path / "state"
    state.mkdir()
    certificate = head_certificate(state)
    server = FtpServer("127.0.0.1", 0, pem=certificate.pem)
    server.start()
    yield server, certificate
    server.stop()


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


def test_a_fault_of_its_thread_is_told_and_leaves_no_socket(
    nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = threading.Event()
    server = FtpServer("127.0.0.1", 0, on_crash=told.set)
    monkeypatch.setattr(server, "drain", lambda: 1 / 0)
    server.start()
    server.revoke("nobody")
    assert told.wait(10)
    server.stop()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=10).close()


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


def test_a_transfer_without_a_byte_is_cut_off(
    server: FtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp_server._Bytes, "timeout", 0.2)
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
