"""The FTP server against the standard library's client, over real sockets: what a login opens."""

from __future__ import annotations

import dataclasses
import ftplib
import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from clusterray.head.ftp_server import FtpServer
from clusterray.head.grants import FileGrant
from tests.head.ftp_clients import (
    connect,
    fetch,
    login,
    read_grant,
    refused,
    store,
    write_grant,
)

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


def test_a_reader_may_ask_for_ranges_of_its_file(server: FtpServer, tmp_path: Path) -> None:
    content = os.urandom(1_000_000)
    grant = read_grant(tmp_path, content)
    server.grant(grant)
    with login(server, grant) as client:
        asked = "scene.tar;0-10,500000-999999,7-8"
        assert fetch(client, asked) == content[:10] + content[500_000:999_999] + content[7:8]
        assert fetch(client, "scene.tar;999990-2000000") == content[999_990:]
        assert fetch(client, "scene.tar") == content, "the ranges were of one command"


@pytest.mark.parametrize(
    "words",
    [
        "",
        "5",
        "5-5",
        "6-5",
        "-5",
        "5-",
        "0-5;6-7",
        "0-5,",
        "a-b",
        "0-1 ",
        "\u0660-\u0661",
        "0-" + "1" * 16,
    ],
)
def test_what_is_no_range_is_refused(server: FtpServer, tmp_path: Path, words: str) -> None:
    grant = read_grant(tmp_path, b"scene")
    server.grant(grant)
    with login(server, grant) as client:
        with pytest.raises(ftplib.error_perm, match="501"):
            fetch(client, f"scene.tar;{words}")
        assert fetch(client, "scene.tar") == b"scene"


def test_what_belongs_to_a_file_is_read_by_the_same_login(
    server: FtpServer, tmp_path: Path
) -> None:
    beside = tmp_path / "manifest.json"
    beside.write_bytes(b"[]")
    plain = read_grant(tmp_path, b"scene")
    grant = dataclasses.replace(plain, beside=(("manifest.json", beside),))
    server.grant(grant)
    with login(server, grant) as client:
        assert fetch(client, "manifest.json") == b"[]"
        assert fetch(client, "scene.tar") == b"scene"
        with pytest.raises(ftplib.error_perm, match="550"):
            store(client, "manifest.json", b"other")
    server.grant(plain)
    with login(server, plain) as client, pytest.raises(ftplib.error_perm, match="550"):
        fetch(client, "manifest.json")


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
