"""FTP sessions against a real pyftpdlib server, which runs in a thread of the test."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.servers import FTPServer

from clusterray.core.errors import LocalFault
from clusterray.wire.protocol import Grant
from clusterray.wire.staging import FtpSession, GrantRefused, StagingFault


class Server:
    """A server whose loop runs in a thread; ``call`` runs something in that thread."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self.sessions: list[Any] = []
        self.commands: list[str] = []
        self.authorizer = DummyAuthorizer()
        self.authorizer.add_user("reader", "r", str(folder), perm="r")
        self.authorizer.add_user("writer", "w", str(folder), perm="w")
        outer = self

        class Handler(FTPHandler):  # type: ignore[misc]
            authorizer = outer.authorizer
            auth_failed_timeout = 0
            # A lie, as behind a port forward: 192.0.2.x is nobody's.
            masquerade_address = "192.0.2.1"

            def on_connect(self) -> None:
                outer.sessions.append(self)

            def pre_process_command(self, line: str, cmd: str, arg: str) -> None:
                outer.commands.append(cmd)
                super().pre_process_command(line, cmd, arg)

        self.handler = Handler
        self.ioloop = IOLoop()
        self.server = FTPServer((host, 0), Handler, ioloop=self.ioloop)
        self.port = self.server.socket.getsockname()[1]
        self._work: list[Callable[[], object]] = []
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="ftp")
        self._thread.start()

    def _run(self) -> None:
        while not self._stop:
            self.ioloop.loop(timeout=0.005, blocking=False)
            while self._work:
                self._work.pop(0)()
        self.server.close_all()
        self.ioloop.close()

    def call(self, work: Callable[[], object]) -> None:
        done = threading.Event()
        self._work += [work, done.set]
        assert done.wait(5)

    def close(self) -> None:
        self._stop = True
        self._thread.join()


@pytest.fixture
def share(tmp_path: Path) -> Path:
    folder = tmp_path / "share"
    folder.mkdir()
    return folder


@pytest.fixture
def server(share: Path) -> Iterator[Server]:
    made = Server(share)
    yield made
    made.close()


@pytest.fixture
def session(server: Server) -> Iterator[FtpSession]:
    made = FtpSession("127.0.0.1", server.port, timeout_s=10)
    yield made
    made.close()


def read(path: str, user: str = "reader", password: str = "r") -> Grant:
    return Grant(user=user, password=password, path=path)


def write(path: str) -> Grant:
    return Grant(user="writer", password="w", path=path)


DATA = os.urandom(300_000) + b"\r\n\n\r\0\xff\xf4" * 1000


def test_a_file_goes_up_and_comes_down_in_one_session(
    session: FtpSession, server: Server, tmp_path: Path, share: Path
) -> None:
    (tmp_path / "a.png").write_bytes(DATA)
    moved: list[int] = []
    session.upload(write("tile 1.ü.part"), tmp_path / "a.png", moved.append)
    assert (share / "tile 1.ü.part").read_bytes() == DATA
    assert sum(moved) == len(DATA)
    assert len(moved) > 1

    got: list[int] = []
    digest = session.download(read("tile 1.ü.part"), tmp_path / "back.png", len(DATA), got.append)
    assert (tmp_path / "back.png").read_bytes() == DATA
    assert digest == hashlib.sha256(DATA).hexdigest()
    assert sum(got) == len(DATA)

    session.upload(write("empty"), tmp_path / "back.png")
    (tmp_path / "empty").write_bytes(b"")
    session.upload(write("empty"), tmp_path / "empty")
    session.download(read("empty"), tmp_path / "empty2", 0)
    assert (tmp_path / "empty2").read_bytes() == b""
    assert len(server.sessions) == 1


def test_one_login_serves_many_files(session: FtpSession, server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    for number in range(3):
        session.upload(write(f"f{number}"), tmp_path / "a")
    assert [server.commands.count(c) for c in ("USER", "TYPE", "STOR")] == [1, 1, 3]


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_over_ipv6(share: Path, tmp_path: Path) -> None:
    try:
        server = Server(share, "::1")
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")
    (tmp_path / "a").write_bytes(DATA)
    session = FtpSession("::1", server.port, timeout_s=10)
    session.upload(write("a"), tmp_path / "a")
    session.close()
    server.close()
    assert (share / "a").read_bytes() == DATA


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "grant",
    [
        read("a", password="wrong"),
        read("a", user="nobody"),
        read("missing"),
        read("../../../etc/passwd"),
        read("a\r\nDELE a"),
    ],
    ids=lambda grant: f"{grant.user} {grant.password} {grant.path!r}",
)
def test_a_dead_grant_is_told_from_trouble_and_the_session_goes_on(
    session: FtpSession, server: Server, share: Path, tmp_path: Path, grant: Grant
) -> None:
    (share / "a").write_bytes(b"a")
    with pytest.raises(GrantRefused):
        session.download(grant, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    session.download(read("a"), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"a"
    assert (share / "a").exists()
    assert len(server.sessions) == 1


def test_a_reader_cannot_write(session: FtpSession, share: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    with pytest.raises(GrantRefused, match="550"):
        session.upload(read("b"), tmp_path / "a")
    assert not (share / "b").exists()


def test_a_server_that_is_not_there_is_trouble(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(StagingFault, match=f"127.0.0.1:{port} failed: .*refused") as caught:
        FtpSession("127.0.0.1", port).download(read("a"), tmp_path / "out")
    assert not isinstance(caught.value, GrantRefused)


def test_a_server_that_says_nothing_is_trouble_after_its_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        session = FtpSession("127.0.0.1", mute.getsockname()[1], timeout_s=0.05)
        with pytest.raises(StagingFault, match="timed out"):
            session.download(read("a"), tmp_path / "out")


# ---------------------------------------------------------------- sessions that went stale


def close_all(server: Server) -> None:
    server.call(lambda: [handler.close() for handler in server.sessions])


def time_out_all(server: Server) -> None:
    server.call(lambda: [handler.handle_timeout() for handler in server.sessions])


@pytest.mark.parametrize("end", [close_all, time_out_all])
def test_a_session_the_server_ended_is_opened_again_by_itself(
    session: FtpSession,
    server: Server,
    share: Path,
    tmp_path: Path,
    end: Callable[[Server], None],
) -> None:
    (share / "a").write_bytes(b"a")
    session.download(read("a"), tmp_path / "1")
    end(server)
    session.download(read("a"), tmp_path / "2")
    end(server)
    session.upload(write("b"), tmp_path / "2")
    assert (share / "b").read_bytes() == b"a"
    assert len(server.sessions) == 3


def test_a_session_that_says_nothing_any_more_is_opened_again_once(
    server: Server, share: Path, tmp_path: Path
) -> None:
    (share / "a").write_bytes(b"a")
    with closing(FtpSession("127.0.0.1", server.port, timeout_s=1.0)) as session:
        session.download(read("a"), tmp_path / "1")
        # As where a network between has forgotten the connection: nobody reads it any more.
        server.call(lambda: [handler.del_channel() for handler in server.sessions])
        session.download(read("a"), tmp_path / "2")
        assert (tmp_path / "2").read_bytes() == b"a"
        assert len(server.sessions) == 2
        close_all(server)


def test_a_revoked_login_is_refused_even_where_the_session_stood(
    session: FtpSession, server: Server, share: Path, tmp_path: Path
) -> None:
    (share / "a").write_bytes(b"a")
    session.download(read("a"), tmp_path / "1")
    server.call(lambda: server.authorizer.remove_user("reader"))
    close_all(server)
    with pytest.raises(GrantRefused, match="530"):
        session.download(read("a"), tmp_path / "2")


def test_closing_twice_and_going_on_is_fine(
    session: FtpSession, share: Path, tmp_path: Path
) -> None:
    (share / "a").write_bytes(b"a")
    session.close()
    session.download(read("a"), tmp_path / "1")
    session.close()
    session.close()
    session.download(read("a"), tmp_path / "2")


# ---------------------------------------------------------------- broken off


@pytest.mark.parametrize("expect", [0, 5, len(DATA) - 1, len(DATA) + 1])
def test_a_download_of_another_length_is_refused_and_removed(
    session: FtpSession, share: Path, tmp_path: Path, expect: int
) -> None:
    (share / "a").write_bytes(DATA)
    with pytest.raises(StagingFault, match=r"more than|arrived of"):
        session.download(read("a"), tmp_path / "out", expect)
    assert not (tmp_path / "out").exists()
    session.download(read("a"), tmp_path / "out", len(DATA))


def test_a_target_that_exists_is_left_alone(
    session: FtpSession, share: Path, tmp_path: Path
) -> None:
    (share / "a").write_bytes(b"a")
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("mine", "link"):
        with pytest.raises(LocalFault, match=f"{name}: File exists"):
            session.download(read("a"), tmp_path / name)
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert not (tmp_path / "elsewhere").exists()


def test_a_source_that_is_not_there_is_this_machines_fault(
    session: FtpSession, tmp_path: Path
) -> None:
    with pytest.raises(LocalFault, match="none: No such file"):
        session.upload(write("a"), tmp_path / "none")


class Stop(Exception):
    pass


def stop(_count: int) -> None:
    raise Stop


def test_an_error_in_the_callback_ends_the_transfer_and_spares_the_next(
    session: FtpSession, share: Path, tmp_path: Path
) -> None:
    (share / "a").write_bytes(DATA)
    with pytest.raises(Stop):
        session.download(read("a"), tmp_path / "out", len(DATA), stop)
    assert not (tmp_path / "out").exists()
    with pytest.raises(Stop):
        session.upload(write("b"), share / "a", stop)
    session.download(read("a"), tmp_path / "out", len(DATA))


def test_a_server_that_dies_in_the_middle_is_trouble(
    session: FtpSession, server: Server, share: Path, tmp_path: Path
) -> None:
    with (share / "a").open("wb") as file:
        file.truncate(64 << 20)
    with pytest.raises(StagingFault) as caught:
        session.download(read("a"), tmp_path / "out", 64 << 20, lambda _: close_all(server))
    assert not isinstance(caught.value, GrantRefused)
    assert not (tmp_path / "out").exists()


class DeafServer:
    """An FTP server that stops answering at one command, for ever."""

    def __init__(self, deaf_at: str) -> None:
        self.reached = threading.Event()
        self._deaf_at = deaf_at
        self._control = socket.create_server(("127.0.0.1", 0))
        self._data = socket.create_server(("127.0.0.1", 0))
        self.port = self._control.getsockname()[1]
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        high, low = divmod(self._data.getsockname()[1], 256)
        replies = {"USER": "331 .", "PASS": "230 .", "TYPE": "200 .", "STOR": "150 ."}
        replies |= {"PASV": f"227 (192,0,2,1,{high},{low})", "RETR": "150 ."}
        peer, _ = self._control.accept()
        self._kept.append(peer)
        with peer.makefile("rw", newline="\r\n") as lines:
            self._say(lines, "220 .")
            for line in lines:
                command = line.split()[0]
                if command == self._deaf_at:
                    break
                self._say(lines, replies[command])
            self.reached.set()
            while peer.recv(1):
                pass

    def _say(self, lines: Any, text: str) -> None:
        lines.write(text + "\n")
        lines.flush()

    def close(self) -> None:
        self._thread.join(5)
        for each in (*self._kept, self._control, self._data):
            each.close()


@pytest.mark.parametrize("deaf_at", ["USER", "PASV", "RETR"])
def test_an_abort_ends_a_blocked_wait_at_once(tmp_path: Path, deaf_at: str) -> None:
    server = DeafServer(deaf_at)
    session = FtpSession("127.0.0.1", server.port, timeout_s=60)
    results: list[str] = []

    def download() -> None:
        try:
            session.download(read("a"), tmp_path / "out")
        except StagingFault as fault:
            results.append(str(fault))

    thread = threading.Thread(target=download)
    thread.start()
    assert server.reached.wait(5)
    session.abort()
    thread.join(5)
    server.close()
    assert results == ["the transfer was aborted"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_an_abort_ends_a_running_transfer_and_the_session_goes_on(
    session: FtpSession, share: Path, tmp_path: Path, direction: str
) -> None:
    with (share / "big").open("wb") as file:
        file.truncate(256 << 20)

    def abort_once(_count: int) -> None:
        thread = threading.Thread(target=session.abort)
        thread.start()
        thread.join()

    with pytest.raises(StagingFault, match="the transfer was aborted"):
        if direction == "down":
            session.download(read("big"), tmp_path / "out", 256 << 20, abort_once)
        else:
            session.upload(write("copy"), share / "big", abort_once)
    (share / "a").write_bytes(b"a")
    session.download(read("a"), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"a"


def test_an_abort_between_transfers_ends_the_next_one_only(
    session: FtpSession, share: Path, tmp_path: Path
) -> None:
    (share / "a").write_bytes(b"a")
    session.download(read("a"), tmp_path / "1")
    session.abort()
    with pytest.raises(StagingFault, match="the transfer was aborted"):
        session.download(read("a"), tmp_path / "2")
    session.download(read("a"), tmp_path / "3")
