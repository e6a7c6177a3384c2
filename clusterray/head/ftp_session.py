"""A session of the head's FTP server: its login, and the few commands that a transfer needs.

On the thread ``ftp``. What a login opens its server says, here known as ``Room``.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from pathlib import Path
from typing import BinaryIO, ClassVar, Final, Protocol

from OpenSSL import SSL
from pyftpdlib.authorizers import AuthenticationFailed
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler

from clusterray.head.doorkeeper import site_of
from clusterray.head.ftp_data import DataListener, Transfer, say_farewell
from clusterray.head.ftp_files import OneFile, Upload, parse_ranges
from clusterray.head.grants import FileGrant

IDLE_SECONDS: Final = 300
"""A session with a login and no command for so long is closed; its node connects anew."""
MAX_UNREAD_REPLIES: Final = 64
"""A peer that sends commands and never reads the replies is closed at so many."""

_log = logging.getLogger("clusterray.head.ftp")


class Room(Protocol):
    """The server that a session belongs to; all of it on the thread ``ftp``."""

    def drain(self) -> None:
        """Act on every note so far."""

    def authenticate(self, user: str, password: str) -> FileGrant | None:
        """Give the grant that this login opens, or None."""

    def is_current(self, grant: FileGrant) -> bool:
        """Tell whether this very grant still stands."""

    def logged_in(self, session: Session, user: str) -> None:
        """Note that a session has a login of this user; withdraws it if it is revoked by now."""

    def logged_out(self, session: Session, user: str) -> None:
        """Note that a session has no login of this user any more."""

    def opened(self, session: Session) -> None:
        """Note a new session, or close it."""

    def closed(self, session: Session) -> None:
        """Forget a session."""


class Authorizer:
    """Answers pyftpdlib's questions about a login from the grants."""

    def __init__(self, room: Room) -> None:
        self._room = room

    def validate_authentication(self, user: str, password: str, session: Session) -> None:
        grant = self._room.authenticate(user, password)
        if grant is None:
            raise AuthenticationFailed
        session.log_in(grant)
        if session.grant is None:
            raise AuthenticationFailed
        session.was_known = True

    def get_home_dir(self, user: str) -> str:
        return "/"

    def get_msg_login(self, user: str) -> str:
        return "Login successful."

    def get_msg_quit(self, user: str) -> str:
        return "Goodbye."

    def has_perm(self, user: str, perm: str, path: str | None = None) -> bool:
        # Sessions check the grant themselves; nothing in the command table has a permission.
        return False

    def impersonate_user(self, user: str, password: str) -> None:
        """Files belong to the head."""

    def terminate_impersonation(self, user: str) -> None:
        """Files belong to the head."""


def _command(*, login: bool, argument: bool | None) -> dict[str, object]:
    # No permission letter: pyftpdlib then leaves the argument alone, and the session checks it.
    return {"perm": None, "auth": login, "arg": argument, "help": ""}


TLS_COMMANDS: Final = {
    "AUTH": _command(login=False, argument=True),
    "PBSZ": _command(login=False, argument=True),
    "PROT": _command(login=False, argument=True),
}


class Session(TLS_FTPHandler):  # type: ignore[misc]  # pyftpdlib has no types
    """One control connection. Knows the commands a transfer needs, and no others."""

    room: ClassVar[Room]
    ssl_context: ClassVar[SSL.Context | None] = None
    proto_cmds: ClassVar[dict[str, dict[str, object]]] = {
        "USER": _command(login=False, argument=True),
        "PASS": _command(login=False, argument=None),
        "QUIT": _command(login=False, argument=False),
        "NOOP": _command(login=True, argument=False),
        "TYPE": _command(login=True, argument=True),
        "PASV": _command(login=True, argument=False),
        "EPSV": _command(login=True, argument=None),
        "RETR": _command(login=True, argument=True),
        "STOR": _command(login=True, argument=True),
        "ABOR": _command(login=True, argument=False),
    }
    abstracted_fs = OneFile
    dtp_handler = Transfer
    passive_dtp = DataListener
    timeout = IDLE_SECONDS
    banner = "ClusterRay"
    log_cmds_list: ClassVar[list[str]] = []

    username: str
    _pbsz: bool
    _prot: bool
    _in_dtp_queue: tuple[Upload, str] | None
    _out_dtp_queue: tuple[object, bool, BinaryIO, str] | None

    def __init__(self, conn: socket.socket, server: object, ioloop: object = None) -> None:
        self.grant: FileGrant | None = None
        self.unknown_since = time.monotonic()
        self.was_known = False
        self._ranges: list[tuple[int, int]] = []
        super().__init__(conn, server, ioloop=ioloop)
        self._current_type = "i"
        self.site = site_of(getattr(self, "remote_ip", ""))
        if not self._closed:
            self.room.opened(self)

    def close(self) -> None:
        # First the files, then the control connection: who sees that closed finds no partial file.
        try:
            if not self._closed:
                if self.data_channel is not None:
                    self.data_channel.close()
                self._close_queued()
                if self._ssl_established:
                    say_farewell(self.socket)
            FTPHandler.close(self)
        finally:
            self._log_out()
            self.room.closed(self)

    def handle_error(self) -> None:
        if isinstance(sys.exc_info()[1], SSL.Error):
            _log.info("%s: what came was no TLS; the session is closed", self.remote_ip)
            self.close()
        else:
            FTPHandler.handle_error(self)

    @classmethod
    def get_ssl_context(cls) -> SSL.Context | None:
        """Give the context that the server was made with; pyftpdlib would make one of files."""
        return cls.ssl_context

    def log_in(self, grant: FileGrant) -> None:
        """Have this login, if it is not revoked meanwhile."""
        self._log_out()
        self.grant = grant
        self.room.logged_in(self, grant.user)

    def _log_out(self) -> None:
        grant, self.grant = self.grant, None
        if grant is not None:
            self.room.logged_out(self, grant.user)

    def withdraw(self) -> None:
        """The login of this session has been revoked."""
        if self._is_transferring():
            self.close()
        else:
            self.flush_account()

    # ------------------------------------------------------------ commands

    def collect_incoming_data(self, data: bytes) -> None:
        if not self._closed_as_deaf():
            super().collect_incoming_data(data)

    def pre_process_command(self, line: str, cmd: str, arg: str) -> None:
        self.room.drain()
        if self._closed or self._closed_as_deaf():
            return
        # pyftpdlib takes the last four letters of ABOR and QUIT after Telnet's urgent bytes; it
        # does so for STAT too and then fails when the table has no STAT.
        if cmd in self.proto_cmds or cmd[-4:] in ("ABOR", "QUIT"):
            super().pre_process_command(line, cmd, arg)
        else:
            self.respond("502 Command not offered here.")

    def _closed_as_deaf(self) -> bool:
        if not self._closed and len(self.producer_fifo) > MAX_UNREAD_REPLIES:
            self.close()
        return bool(self._closed)

    def ftp_TYPE(self, line: str) -> None:  # noqa: N802 - pyftpdlib's name
        if line.upper().replace(" ", "") in ("I", "L8"):
            self.respond("200 Type set to: Binary.")
        else:
            self.respond("504 Binary transfers only.")

    def ftp_RETR(self, file: str) -> str | None:  # noqa: N802 - pyftpdlib's name
        # "scene.tar;0-512,2048-4096": these bytes of it, one range after the other.
        name, cut, words = file.partition(";")
        real = self._granted(name, "read")
        if real is None:
            return None
        try:
            self._ranges = parse_ranges(words) if cut else []
        except ValueError as error:
            self.respond(f"501 {error}.")
            return None
        sent: str | None = super().ftp_RETR(str(real))
        return sent

    def take_ranges(self) -> list[tuple[int, int]]:
        """Give the ranges of the file that the command at hand asks for, none for all of it."""
        ranges, self._ranges = self._ranges, []
        return ranges

    def ftp_STOR(self, file: str, mode: str = "w") -> str | None:  # noqa: N802 - pyftpdlib's name
        real = self._granted(file, "write")
        return None if real is None else super().ftp_STOR(str(real), "w")

    def ftp_ABOR(self, line: str) -> None:  # noqa: N802 - pyftpdlib's name
        self._close_queued()
        super().ftp_ABOR(line)

    def _granted(self, name: str, mode: str) -> Path | None:
        grant = self.grant
        if grant is None or not self.room.is_current(grant):
            if not self._closed and self.grant is not None:
                self.flush_account()
            if not self._closed:
                self.respond("530 This login has ended.")
            return None
        real = grant.file_of(name)
        if mode != grant.mode or real is None:
            _log.info("%s: %s of %.80r refused", self.remote_ip, mode, name)
            self.respond("550 Not granted.")
            return None
        if self._has_file_flowing():
            self.respond("425 A transfer is running.")
            return None
        if self.data_channel is None and self._dtp_acceptor is None:
            self.respond("425 Use EPSV or PASV first.")
            return None
        self._close_queued()
        return real

    # ------------------------------------------------------------ login

    def handle_auth_failed(self, msg: str, password: str) -> None:
        # As pyftpdlib does, reading stops until the answer, so guessing is slow; but by a call
        # that ends with the session: pyftpdlib's would put a closed session's descriptor number,
        # by then another's, back into the loop.
        _log.info("%s: wrong login as %.40r", self.remote_ip, self.username)
        self.username = ""
        self.del_channel()
        self.call_later(self.auth_failed_timeout, self._refuse_login)

    def _refuse_login(self) -> None:
        self.add_channel()
        self.attempted_logins += 1
        if self.attempted_logins < self.max_login_attempts:
            self.respond("530 Authentication failed.")
            return
        self.respond("530 Authentication failed. Disconnecting.")
        self.close_when_done()

    def flush_account(self) -> None:
        # pyftpdlib lets a running transfer go on and leaves a queued file open.
        self._shutdown_connecting_dtp()
        if self.data_channel is not None:
            if self._has_file_flowing():
                self.data_channel._resp = ("426 Transfer ended by a new login.", _log.debug)
            self.data_channel.close()
        self._close_queued()
        protected = self._pbsz, self._prot
        super().flush_account()
        self._pbsz, self._prot = protected
        self._current_type = "i"
        self._log_out()
        self.unknown_since = time.monotonic()

    # ------------------------------------------------------------ transfers

    def _make_epasv(self, extmode: bool = False) -> None:
        # A file queued for an earlier data connection must not get the bytes of the next one.
        self._close_queued()
        try:
            super()._make_epasv(extmode)
        except OSError as error:
            _log.error("cannot open a port for data: %s", error.strerror or error)
            self.respond("425 No port for a data connection; try again later.")

    def _is_transferring(self) -> bool:
        return (
            self._has_file_flowing()
            or self._in_dtp_queue is not None
            or self._out_dtp_queue is not None
        )

    def _has_file_flowing(self) -> bool:
        # A data connection without a file is one that came before, or after, its command.
        return self.data_channel is not None and self.data_channel.file_obj is not None

    def _close_queued(self) -> None:
        if self._closed:
            return
        if self._in_dtp_queue is not None:
            self._in_dtp_queue[0].close()
            self._in_dtp_queue = None
        if self._out_dtp_queue is not None:
            self._out_dtp_queue[2].close()
            self._out_dtp_queue = None
