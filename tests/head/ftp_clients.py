"""What the tests of the FTP server use: the standard library's client, and grants."""

from __future__ import annotations

import ftplib
import io
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from clusterray.head.ftp_server import FtpServer
from clusterray.head.grants import FileGrant

WaitFor = Callable[[Callable[[], bool]], None]

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
