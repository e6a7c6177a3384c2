"""The head's FTP server: pyftpdlib wrapped in one typed room.

Responsible for letting exactly one file per login in or out, as FileGrants say. The thread ``ftp``
runs everything below the banner "ftp thread"; the five public methods of FtpServer may be called
from any thread and only leave a note in a deque and wake that thread. Must not know what the files
are: a received file proves nothing, whoever asked for it checks its size and hash.

What pyftpdlib 2 does by itself, and this room does not want:

- settings are attributes of the handler class, so each server makes a subclass of its own;
- ``IOLoop.loop`` sets up logging for the whole process, so the loop here is our own;
- there is no stop from another thread, hence the wake-up socket pair in the loop;
- TLS ends by and by, where a revoked session must end at once, and its reader takes a cut
  connection for the end of a file: here the first farewell is the last, and only a peer that has
  said its own has sent a whole file;
- after a fault of TLS, which any peer can make, it closes past our own close, and would leave the
  session on our list and the client of a transfer without an answer;
- PBSZ and PROT are forgotten at each login, which would cost two round trips a tile;
- a second STOR or a new login leaves queued files open, ``STAT`` outside the command table is a
  KeyError, a full disk while writing is reported as "None", and too few file descriptors close the
  listening socket for good: each is handled where it says so.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import ipaddress
import logging
import os
import socket
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final

from OpenSSL import SSL
from pyftpdlib.authorizers import AuthenticationFailed
from pyftpdlib.filesystems import AbstractedFS, FilesystemError
from pyftpdlib.handlers import DTPHandler, FTPHandler, TLS_DTPHandler, TLS_FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.servers import FTPServer

from clusterray.head.doorkeeper import site_of
from clusterray.head.grants import FileGrant
from clusterray.head.listening import bind

LOGIN_SECONDS: Final = 30.0
"""A session that shows no valid login for so long is closed."""
IDLE_SECONDS: Final = 300
"""A session with a login and no command for so long is closed; its node connects anew."""
STALL_SECONDS: Final = 120
"""A transfer without a byte for so long is cut off."""
MAX_SOCKETS: Final = 4096
"""Sockets of this server together: sessions, data listeners and data connections."""
MAX_UNREAD_REPLIES: Final = 64
"""A peer that sends commands and never reads the replies is closed at so many."""
CHUNK_BYTES: Final = 1 << 18
_ACCEPT_PAUSE_S: Final = 1.0
_SWEEP_S: Final = 5.0
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = logging.getLogger("clusterray.head.ftp")


@dataclass(frozen=True, slots=True)
class FtpLimits:
    """How many sessions there may be: without a login in all and of an address, and of an address.

    Of too many without a login the oldest goes; of too many in all the newcomer is sent away.
    """

    strangers: int = 1024
    strangers_per_address: int = 128
    per_address: int = 1024


@dataclass(frozen=True, slots=True)
class _Revoke:
    user: str


@dataclass(frozen=True, slots=True)
class _Announced:
    user: str
    size: int


class FtpServer:
    """The head's FTP server: one thread, one listening socket, logins made of FileGrants.

    Binds at once, to ``host`` and ``port`` (0 takes a free one, see ``port``); serves after
    ``start``. Data connections are passive only, on ``passive_ports`` (first and last) or any free
    port. ``masquerade`` is the IPv4 address named in PASV replies; any other text is left out, our
    own nodes ignore that address anyway. ``pem`` is the file with the head's key and certificate:
    with it no login is taken and no data connection opened without TLS; without it there is no
    TLS. ``may_knock`` says from which addresses a session is taken. ``on_unwritable`` is told, on
    the ftp thread, the login and the reason of an upload that this machine cannot write.
    ``on_crash`` is called if the thread dies of a fault of ours: the head must not go on then.
    Raises LocalFault if the address cannot be had.
    """

    def __init__(
        self,
        host: str,
        port: int,
        passive_ports: tuple[int, int] | None = None,
        masquerade: str = "",
        on_unwritable: Callable[[str, str], None] = lambda user, reason: None,
        *,
        pem: Path | None = None,
        may_knock: Callable[[str], bool] = lambda address: True,
        limits: FtpLimits | None = None,
        on_crash: Callable[[], None] = lambda: None,
    ) -> None:
        _route_log()
        self._limits = limits or FtpLimits()
        self._may_knock = may_knock
        self._on_unwritable = on_unwritable
        self._on_crash = on_crash
        listening = bind(host, port, "FTP", "--ftp-port")
        self.port: int = listening.getsockname()[1]
        self._notes: deque[FileGrant | _Revoke | _Announced] = deque()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._loop = IOLoop()
        self._waker = _Waker(self._loop)
        self._grants: dict[str, FileGrant] = {}
        self._announced: dict[str, int] = {}
        self._sessions: set[_Session] = set()
        self._listener = _Listener(
            listening, self._session_class(passive_ports, masquerade, pem), ioloop=self._loop
        )
        self._listener.max_cons_per_ip = self._limits.per_address
        self._loop.call_every(_SWEEP_S, self._sweep)

    # ------------------------------------------------------------ called from any thread

    def start(self) -> None:
        """Start the thread ``ftp``."""
        self._thread = threading.Thread(target=self._run, name="ftp")
        self._thread.start()

    def grant(self, grant: FileGrant) -> None:
        """Let this login in from now on; one that is sent right after this call works.

        A grant of the same user is replaced.
        """
        self._notes.append(grant)
        self._waker.wake()

    def announced(self, user: str, size: int) -> None:
        """Cut this login's uploads off after ``size`` bytes, also one that is under way.

        It never allows more than the grant; an unknown user is nothing to do.
        """
        self._notes.append(_Announced(user, size))
        self._waker.wake()

    def revoke(self, user: str) -> None:
        """Let this login in no more; an unknown user is nothing to do.

        After this call no transfer under the login begins or is reported as complete. A session in
        the middle of one is closed and what it stored so far deleted; a session between transfers
        is logged out and closed unless it brings another login within LOGIN_SECONDS, so that a
        node can go on to its next tile without connecting anew.
        """
        self._notes.append(_Revoke(user))
        self._waker.wake()

    def stop(self) -> None:
        """Close every socket and wait for the thread; may be called twice, or without start."""
        if self._stopping:
            return
        self._stopping = True
        if self._thread is None:
            self._close_all()
        else:
            self._waker.wake()
            self._thread.join()
        self._waker.close()

    # ------------------------------------------------------------ ftp thread

    def _session_class(
        self, passive_ports: tuple[int, int] | None, masquerade: str, pem: Path | None
    ) -> type[_Session]:
        ports = None if passive_ports is None else range(passive_ports[0], passive_ports[1] + 1)
        settings = {
            "room": self,
            "authorizer": _Authorizer(self),
            "passive_ports": ports,
            "masquerade_address": masquerade if _is_ipv4(masquerade) else None,
        }
        if pem is not None:
            settings |= {
                "ssl_context": _tls_context(pem),
                "tls_control_required": True,
                "tls_data_required": True,
                "proto_cmds": _Session.proto_cmds | _TLS_COMMANDS,
            }
        return type("_ServedSession", (_Session,), settings)

    def _run(self) -> None:
        try:
            self._serve()
        except Exception:  # noqa: BLE001 - without its thread the head must not go on
            _log.critical("the ftp thread has a fault; the head stops", exc_info=True)
            self._on_crash()
        finally:
            self._close_all()

    def _serve(self) -> None:
        timeout: float | None = None
        while not self._stopping:
            self._loop.poll(timeout)
            self.drain()
            timeout = self._loop.sched.poll()

    def drain(self) -> None:
        """Act on every note so far; called before anything that depends on them."""
        while self._notes:
            note = self._notes.popleft()
            if isinstance(note, _Announced):
                if note.user in self._grants:
                    self._announced[note.user] = note.size
                continue
            self._announced.pop(note.user, None)
            if isinstance(note, FileGrant):
                self._grants[note.user] = note
            elif self._grants.pop(note.user, None) is not None:
                self._withdraw(note.user)

    def _withdraw(self, user: str) -> None:
        for session in list(self._sessions):
            if session.grant is not None and session.grant.user == user:
                session.withdraw()

    def authenticate(self, user: str, password: str) -> FileGrant | None:
        """Give the grant this login opens, or None."""
        self.drain()
        grant = self._grants.get(user)
        expected = "" if grant is None else grant.password
        # Also for an unknown user, so that the time taken does not tell which users exist.
        same = hmac.compare_digest(expected.encode(), password.encode("utf-8", "replace"))
        return grant if same and grant is not None and grant.password else None

    def is_current(self, grant: FileGrant) -> bool:
        """Tell whether this very grant still stands."""
        self.drain()
        return self._grants.get(grant.user) == grant

    def most_bytes(self, grant: FileGrant) -> int | None:
        """Give where an upload under this grant is cut off, None if nowhere."""
        limits = (grant.max_bytes, self._announced.get(grant.user))
        return min((limit for limit in limits if limit is not None), default=None)

    def unwritable(self, grant: FileGrant, error: OSError) -> None:
        """Say that an upload cannot be written, which is no fault of its sender."""
        reason = error.strerror or str(error)
        _log.error("cannot write the upload %s: %s", grant.real, reason)
        self._on_unwritable(grant.user, reason)

    def opened(self, session: _Session) -> None:
        """Note a new session, or close it; of too many without a login the oldest goes."""
        self._sessions.add(session)
        if not self._may_knock(session.remote_ip):
            session.respond("421 Not from there without TLS.")
            session.close()
            return
        strangers = [other for other in self._sessions if other.grant is None]
        neighbours = [other for other in strangers if other.site == session.site]
        if len(neighbours) > self._limits.strangers_per_address:
            min(neighbours, key=_unknown_since).close()
        elif len(strangers) > self._limits.strangers:
            min(strangers, key=_unknown_since).close()

    def closed(self, session: _Session) -> None:
        """Forget a session; it may be unknown already."""
        self._sessions.discard(session)

    def _sweep(self) -> None:
        now = time.monotonic()
        for session in list(self._sessions):
            if session.grant is None and now - session.unknown_since > LOGIN_SECONDS:
                session.close()

    def _close_all(self) -> None:
        # Not all sockets stand in the loop's map: a session paused after a wrong login does not.
        for session in list(self._sessions):
            session.close()
        self._listener.close()
        self._loop.close()


class _Waker:
    """The read end of a socket pair in the loop; ``wake`` from any thread ends a poll."""

    def __init__(self, loop: Any) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._fileno = self._read.fileno()
        loop.register(self._fileno, self, loop.READ)

    def wake(self) -> None:
        """End the current or next poll; does nothing once closed."""
        # A full buffer means that a wake-up is already under way.
        with contextlib.suppress(OSError):
            self._write.send(b"\0")

    def close(self) -> None:
        """Close both ends; the loop's own close does this too, for the end it knows."""
        self._read.close()
        self._write.close()

    # What pyftpdlib's loop asks of each of its channels:

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._read.recv(4096):
                pass

    def handle_close(self) -> None:
        self.close()

    def handle_error(self) -> None:
        _log.exception("the ftp thread's wake-up socket failed")


class _Listener(FTPServer):  # type: ignore[misc]  # pyftpdlib has no types
    """The listening socket."""

    max_cons = MAX_SOCKETS

    def handle_accept(self) -> None:
        try:
            super().handle_accept()
        except OSError as error:
            if error.errno not in _OUT_OF_DESCRIPTORS:
                raise
            _log.error("cannot accept an FTP session: %s; raise the limit of open files", error)
            # The socket stays readable: without a pause the loop would spin.
            self.del_channel()
            self.ioloop.call_later(_ACCEPT_PAUSE_S, self.add_channel)

    def handle_error(self) -> None:
        # pyftpdlib closes the listening socket here: one odd connection would end the service.
        _log.exception("could not take in an FTP session")


class _Authorizer:
    """Answers pyftpdlib's questions about a login from the grants."""

    def __init__(self, room: FtpServer) -> None:
        self._room = room

    def validate_authentication(self, user: str, password: str, session: _Session) -> None:
        grant = self._room.authenticate(user, password)
        if grant is None:
            raise AuthenticationFailed
        session.grant = grant

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


class _OneFile(AbstractedFS):  # type: ignore[misc]  # pyftpdlib has no types
    """The file system of a session: the one file of its grant."""

    def open(self, filename: str, mode: str) -> _Upload | BinaryIO:
        grant: FileGrant | None = self.cmd_channel.grant
        if grant is None or filename != str(grant.real):
            raise FilesystemError("Not your file")
        if mode == "wb":
            try:
                return _Upload(grant)
            except OSError as error:
                self.cmd_channel.room.unwritable(grant, error)
                raise
        return _open_to_read(grant.real)


def _open_to_read(real: Path) -> BinaryIO:
    # Non-blocking: a pipe put in the file's place must not stop the loop.
    fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FilesystemError("Not a regular file")
    return os.fdopen(fd, "rb", buffering=0)


class _Upload:
    """The file of one STOR, always new; gone again on close unless ``whole`` was set.

    A new file each time, not a truncated one: when a node that was cut off stores its tile again,
    the end of its dead first session must not delete what the second one stored. Unbuffered, so
    that a full disk shows in ``write`` and never in ``close``.
    """

    def __init__(self, grant: FileGrant) -> None:
        self.name = str(grant.real)
        self.grant = grant
        self.closed = False
        self.whole = False
        self._real = grant.real
        with contextlib.suppress(FileNotFoundError):
            self._real.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._real, flags, 0o600)

    def write(self, data: bytes) -> None:
        """Write all of it; raises OSError."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        """Close, and delete what is not whole."""
        if self.closed:
            return
        self.closed = True
        try:
            if not self.whole:
                self._remove()
        finally:
            os.close(self._fd)

    def _remove(self) -> None:
        # Compared while our file is open, so its inode number cannot have been given away.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(self._real), os.fstat(self._fd)):
                self._real.unlink()


# Where this class is defined changed between releases of pyftpdlib; here it is in all of them.
_PassiveDTP: Any = FTPHandler.passive_dtp


class _DataListener(_PassiveDTP):  # type: ignore[misc]  # pyftpdlib has no types
    """The socket of one PASV or EPSV."""

    def __init__(self, session: _Session, extmode: bool = False) -> None:
        self._may_take_any_port = session.passive_ports is None
        try:
            super().__init__(session, extmode)
        except OSError:
            self.close()
            raise

    def bind(self, address: tuple[str, int]) -> None:
        # With all ports of the range taken pyftpdlib goes to a random one, which no firewall lets
        # through: the client would hang where it can be told.
        if address[1] == 0 and not self._may_take_any_port:
            raise OSError(errno.EADDRINUSE, "every passive port is in use")
        super().bind(address)


class _Bytes(DTPHandler):  # type: ignore[misc]  # pyftpdlib has no types
    """What a data connection does with its bytes, over TLS or not."""

    timeout = STALL_SECONDS
    ac_in_buffer_size = CHUNK_BYTES
    ac_out_buffer_size = CHUNK_BYTES

    def handle_read(self) -> None:
        try:
            chunk = self.socket.recv(self.ac_in_buffer_size)
        except (BlockingIOError, SSL.WantReadError):
            return
        except SSL.ZeroReturnError:
            chunk = b""
        except (OSError, SSL.Error):
            # pyftpdlib takes a reset for the end of the file.
            self._cut_off("426 Connection lost; transfer aborted.")
            return
        if not chunk:
            self.handle_close()
            return
        self.tot_bytes_received += len(chunk)
        self._take(chunk)

    handle_read_event = handle_read

    def _take(self, chunk: bytes) -> None:
        self.cmd_channel.room.drain()
        if self._closed:
            return
        upload: _Upload = self.file_obj
        most = self.cmd_channel.room.most_bytes(upload.grant)
        if most is not None and self.tot_bytes_received > most:
            self._cut_off(f"552 More than the {most} bytes allowed; file deleted.")
            return
        try:
            upload.write(chunk)
        except OSError as error:
            self.cmd_channel.room.unwritable(upload.grant, error)
            self._cut_off(f"452 {error.strerror}; transfer aborted.")

    def _cut_off(self, reply: str) -> None:
        self._resp = (reply, _log.debug)
        self.close()

    def handle_close(self) -> None:
        self.cmd_channel.room.drain()
        if self._closed:
            return
        if self.receive and self.file_obj is not None:
            self.file_obj.whole = True
        super().handle_close()


class _Transfer(TLS_DTPHandler, _Bytes):  # type: ignore[misc]  # pyftpdlib has no types
    """One data connection."""

    def push_with_producer(self, producer: object) -> None:
        super().push_with_producer(producer)
        if self._is_shaking_hands():
            # The socket takes bytes all the while, so a loop that waits to write would spin.
            self._want(self.ioloop.READ)

    def handle_ssl_established(self) -> None:
        if self._initialized and not self.receive:
            self._want(self.ioloop.WRITE)

    def send(self, data: bytes) -> int:
        if self._is_shaking_hands():
            # pyftpdlib would shake hands within, and know no answer to a failure.
            return 0
        try:
            return int(super().send(data))
        except SSL.Error:
            self._cut_off("426 Connection lost; transfer aborted.")
            return 0

    def handle_error(self) -> None:
        _Bytes.handle_error(self)

    def _is_shaking_hands(self) -> bool:
        return not self._closed and self._ssl_requested and not self._ssl_established

    def _want(self, events: int) -> None:
        self._wanted_io_events = events
        self.modify_ioloop_events(events)

    def close(self) -> None:
        # pyftpdlib's waits for the peer to take the farewell: not for one that was revoked.
        if not self._closed and self._ssl_established:
            _say_farewell(self.socket)
        _Bytes.close(self)


def _say_farewell(connection: SSL.Connection) -> None:
    with contextlib.suppress(SSL.Error, OSError):
        connection.shutdown()


def _tls_context(pem: Path) -> SSL.Context:
    """Make the context as ``wire.tls`` does, for the library that pyftpdlib speaks TLS with."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    context.use_certificate_chain_file(str(pem))
    context.use_privatekey_file(str(pem))
    return context


def _command(*, login: bool, argument: bool | None) -> dict[str, object]:
    # No permission letter: pyftpdlib then leaves the argument alone, and the session checks it.
    return {"perm": None, "auth": login, "arg": argument, "help": ""}


_TLS_COMMANDS: Final = {
    "AUTH": _command(login=False, argument=True),
    "PBSZ": _command(login=False, argument=True),
    "PROT": _command(login=False, argument=True),
}


class _Session(TLS_FTPHandler):  # type: ignore[misc]  # pyftpdlib has no types
    """One control connection. Knows the commands a transfer needs, and no others."""

    room: ClassVar[FtpServer]
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
    abstracted_fs = _OneFile
    dtp_handler = _Transfer
    passive_dtp = _DataListener
    timeout = IDLE_SECONDS
    banner = "ClusterRay"
    log_cmds_list: ClassVar[list[str]] = []

    username: str
    _pbsz: bool
    _prot: bool
    _in_dtp_queue: tuple[_Upload, str] | None
    _out_dtp_queue: tuple[object, bool, BinaryIO, str] | None

    def __init__(self, conn: socket.socket, server: object, ioloop: object = None) -> None:
        self.grant: FileGrant | None = None
        self.unknown_since = time.monotonic()
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
                    _say_farewell(self.socket)
            FTPHandler.close(self)
        finally:
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
        grant = self._granted(file, "read")
        return None if grant is None else super().ftp_RETR(str(grant.real))

    def ftp_STOR(self, file: str, mode: str = "w") -> str | None:  # noqa: N802 - pyftpdlib's name
        grant = self._granted(file, "write")
        return None if grant is None else super().ftp_STOR(str(grant.real), "w")

    def ftp_ABOR(self, line: str) -> None:  # noqa: N802 - pyftpdlib's name
        self._close_queued()
        super().ftp_ABOR(line)

    def _granted(self, name: str, mode: str) -> FileGrant | None:
        grant = self.grant
        if grant is None or not self.room.is_current(grant):
            if not self._closed and self.grant is not None:
                self.flush_account()
            if not self._closed:
                self.respond("530 This login has ended.")
            return None
        if mode != grant.mode or name not in (grant.path, f"/{grant.path}"):
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
        return grant

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
        self.grant = None
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


def _unknown_since(session: _Session) -> float:
    return session.unknown_since


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


class _ToOurLog(logging.Handler):
    """Passes pyftpdlib's records on to our own logger."""

    def emit(self, record: logging.LogRecord) -> None:
        if _log.isEnabledFor(record.levelno):
            _log.handle(record)


def _route_log() -> None:
    theirs = logging.getLogger("pyftpdlib")
    if any(isinstance(handler, _ToOurLog) for handler in theirs.handlers):
        return
    theirs.addHandler(_ToOurLog())
    theirs.propagate = False
    theirs.setLevel(logging.WARNING)
