"""Files to and from the head's FTP server: one session, many logins, one file each.

One thread owns a session; ``abort`` alone may come from another. ftplib does the control
conversation; the sockets are opened here, so that ``abort`` can end whatever blocks on them, a
connect included. With a fingerprint everything goes over TLS, and no login and no byte of a file
to anybody but the owner of that certificate. Knows nothing of what the files mean; hashes, retries
and deadlines are the caller's.
"""

from __future__ import annotations

import ftplib
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, NoReturn, TypeAlias

from clusterray.core.errors import LocalFault
from clusterray.wire import tls
from clusterray.wire.packing import PIECE_BYTES, Packer
from clusterray.wire.protocol import Grant

OnBytes: TypeAlias = Callable[[int], None]
"""Called with the number of bytes just moved (not a total)."""

_CHUNK: Final = 1 << 17
_REASON_TIMEOUT_S: Final = 5.0
_DEAD_CODES: Final = ("530", "550", "553")
_STALE_CODE: Final = "421"


class StagingFault(Exception):
    """A transfer failed for a passing reason; another try may do. ``str()`` is a sentence."""


class GrantRefused(StagingFault):
    """The server refuses this login or this file (530, 550, 553): the grant is dead."""


class _Sockets:
    """The open sockets of one session, so that another thread can break them."""

    def __init__(self) -> None:
        # Guards _open and _aborted: what abort() must find whatever the owner is doing.
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._aborted = False

    def dial(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Connect to the first address of ``host`` that answers; raises OSError."""
        last: OSError = OSError(f"{host} has no address")
        for family, kind, proto, _, address in socket.getaddrinfo(
            host, port, 0, socket.SOCK_STREAM
        ):
            sock = socket.socket(family, kind, proto)
            try:
                self._add(sock)
                sock.settimeout(timeout_s)
                sock.connect(address)
            except OSError as error:
                last = error
                self.close(sock)
            else:
                return sock
        raise last

    def secure(self, sock: socket.socket, fingerprint: str, timeout_s: float) -> ssl.SSLSocket:
        """Put TLS over ``sock`` and compare the pin; raises Untrusted, OSError.

        The socket given back stands in the other's place, also when this fails.
        """
        place = _place(sock)
        with self._lock:
            self._open.discard(sock)
            secured = tls.begin(sock)
            self._open.add(secured)
            if self._aborted:
                raise ConnectionAbortedError("aborted")
        try:
            tls.check_pin(secured, fingerprint, place, timeout_s)
        except BaseException:
            self.close(secured)
            raise
        return secured

    def _add(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.add(sock)
            if self._aborted:
                raise ConnectionAbortedError("aborted")

    def close(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.discard(sock)
            sock.close()

    def abort(self) -> None:
        with self._lock:
            self._aborted = True
            for sock in self._open:
                # A close would not wake a thread that blocks on it; a shutdown does. The plain
                # socket's: that of TLS would let its owner's next words out in the clear.
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def take_abort(self) -> bool:
        with self._lock:
            aborted, self._aborted = self._aborted, False
            return aborted


class _Control(ftplib.FTP):
    """ftplib's control conversation over a socket that was opened elsewhere."""

    def adopt(self, sock: socket.socket, timeout_s: float) -> None:
        """Take over ``sock`` and read the server's welcome."""
        self.timeout = timeout_s
        self.af = sock.family
        self.speak_over(sock)
        self.welcome = self.getresp()

    def speak_over(self, sock: socket.socket) -> None:
        """Go on with ``sock``; what was read ahead from another is left unheard."""
        if self.file is not None:
            self.file.close()
        self.encoding = "utf-8"
        self.sock = sock
        self.file = sock.makefile("r", encoding=self.encoding)


class FtpSession:
    """One FTP session with the head; opened at the first transfer, opened again when it is lost.

    ``fingerprint`` is the certificate's as in a join token, "" for a plain session. ``timeout_s``
    bounds each single wait for the network, not a whole transfer.
    """

    def __init__(
        self, host: str, port: int, fingerprint: str = "", *, timeout_s: float = 30
    ) -> None:
        """Remember where the server is; nothing is opened yet."""
        self._host, self._port, self._timeout_s = host, port, timeout_s
        self._fingerprint = fingerprint
        self._sockets = _Sockets()
        self._control: _Control | None = None
        self._login: tuple[str, str] | None = None

    # ------------------------------------------------------------ any thread

    def abort(self) -> None:
        """End the running transfer at once, or the next one if none runs; it raises StagingFault.

        The session is usable afterwards.
        """
        self._sockets.abort()

    # ------------------------------------------------------------ the owner's thread

    def upload(
        self,
        grant: Grant,
        source: Path,
        on_bytes: OnBytes | None = None,
        packer: Packer | None = None,
    ) -> None:
        """Store ``source`` under the grant's path, as it is or as ``packer`` packs it.

        ``on_bytes`` counts the source's bytes. Returns once the server has said it has it, which
        does not prove that it does. Raises GrantRefused, StagingFault, or LocalFault if ``source``
        cannot be read.
        """
        try:
            file = source.open("rb")
        except OSError as error:
            raise _unreadable(source, error) from None
        with file:
            self._transfer(
                grant, f"STOR {grant.path}", lambda data: _push(data, file, on_bytes, packer)
            )

    def download(
        self,
        grant: Grant,
        target: Path,
        expect_bytes: int | None = None,
        on_bytes: OnBytes | None = None,
        *,
        hashed: bool = True,
    ) -> str:
        """Fetch the grant's path into the new file ``target``; give the hex SHA-256 of it.

        Without ``hashed`` give "", for a caller who checks the content in another way, as a
        scene's files are: hashing takes as long as receiving. ``target`` must not exist and is
        removed again on any failure. Raises GrantRefused, StagingFault (also if it is not
        ``expect_bytes`` long), or LocalFault if ``target`` cannot be written.
        """
        try:
            # "x" is O_CREAT | O_EXCL, which does not follow a link either.
            file = target.open("xb", buffering=0)
        except OSError as error:
            raise _unwritable(target, error) from None
        puller = _Puller(file, target, expect_bytes, on_bytes, hashlib.sha256() if hashed else None)
        try:
            with file:
                self._transfer(grant, f"RETR {grant.path}", puller.pull)
                puller.check_whole()
        except BaseException:
            with suppress(OSError):
                target.unlink()
            raise
        return puller.sha256

    def close(self) -> None:
        """Say goodbye, if the server listens, and close; the next transfer opens anew."""
        if self._control is None:
            return
        with suppress(OSError, EOFError, ftplib.Error):
            assert self._control.sock is not None
            self._control.sock.settimeout(_REASON_TIMEOUT_S)
            self._control.putcmd("QUIT")
        self._drop()

    # ------------------------------------------------------------ inner work

    def _transfer(self, grant: Grant, command: str, move: Callable[[socket.socket], None]) -> None:
        if "\r" in command or "\n" in command:
            raise GrantRefused(f"no FTP command can carry the path {grant.path!r}")
        try:
            data = self._begin(grant, command)
            try:
                move(data)
                _finish(data)
            except (ConnectionError, TimeoutError, ssl.SSLError) as error:
                self._sockets.close(data)
                self._explain(error)
            finally:
                self._sockets.close(data)
            assert self._control is not None
            self._control.voidresp()
        except (OSError, EOFError, ftplib.Error, tls.Untrusted) as error:
            self._fail(error, command)
        except BaseException:
            # The caller's callback, or its disk: the server is still in the middle of the file.
            self._drop()
            self._sockets.take_abort()
            raise
        if self._sockets.take_abort():
            self._drop()
            raise StagingFault("the transfer was aborted")

    def _begin(self, grant: Grant, command: str) -> socket.socket:
        """Log in if need be and give the open data connection of ``command``."""
        fresh = self._control is None
        try:
            return self._ask(grant, command)
        except (ConnectionError, EOFError, TimeoutError, ftplib.Error) as error:
            # A server closes a session that idles, or whose login was revoked meanwhile; one that
            # a network between has forgotten says nothing at all.
            stale = not isinstance(error, ftplib.Error) or str(error).startswith(_STALE_CODE)
            if fresh or not stale:
                raise
        self._drop()
        return self._ask(grant, command)

    def _ask(self, grant: Grant, command: str) -> socket.socket:
        control = self._open()
        self._log_in(control, grant)
        _, port = control.makepasv()
        # Where the server says it listens is its own view of the network: behind a forwarded
        # range or a bridge it is wrong. The address that answered us is right.
        assert control.sock is not None
        data = self._sockets.dial(control.sock.getpeername()[0], port, self._timeout_s)
        try:
            response = control.sendcmd(command)
            if response[:1] == "2":
                response = control.getresp()
            if response[:1] != "1":
                raise ftplib.error_reply(response)
            if self._fingerprint:
                data = self._secure(data)
        except BaseException:
            self._sockets.close(data)
            raise
        return data

    def _secure(self, sock: socket.socket) -> ssl.SSLSocket:
        return self._sockets.secure(sock, self._fingerprint, self._timeout_s)

    def _open(self) -> _Control:
        if self._control is None:
            control = _Control()
            sock = self._sockets.dial(self._host, self._port, self._timeout_s)
            self._control, self._login = control, None
            control.adopt(sock, self._timeout_s)
            if self._fingerprint:
                self._secure_control(control, sock)
        return self._control

    def _secure_control(self, control: _Control, sock: socket.socket) -> None:
        try:
            control.voidcmd("AUTH TLS")
        except ftplib.error_perm as error:
            raise tls.Untrusted(
                f"what answers there offers no TLS ({error}), as the token says it does"
            ) from None
        control.speak_over(self._secure(sock))
        control.voidcmd("PBSZ 0")
        control.voidcmd("PROT P")

    def _log_in(self, control: _Control, grant: Grant) -> None:
        login = (grant.user, grant.password)
        if self._login == login:
            return
        self._login = None
        response = control.sendcmd(f"USER {grant.user}")
        if response[:1] == "3":
            control.sendcmd(f"PASS {grant.password}")
        # Each login, not once: pyftpdlib's USER puts the session back to ASCII.
        control.voidcmd("TYPE I")
        self._login = login

    def _explain(self, error: OSError) -> NoReturn:
        """Raise what the server says of a broken data connection, or ``error`` if it is silent."""
        control = self._control
        if control is not None and control.sock is not None:
            control.sock.settimeout(min(_REASON_TIMEOUT_S, self._timeout_s))
            with suppress(OSError, EOFError):
                control.voidresp()
        raise error

    def _fail(self, error: Exception, command: str) -> NoReturn:
        aborted = self._sockets.take_abort()
        refused = isinstance(error, ftplib.error_perm) and str(error).startswith(_DEAD_CODES)
        if not refused or aborted:
            self._drop()
        if aborted:
            raise StagingFault("the transfer was aborted") from None
        place = f"{command} at {self._host}:{self._port}"
        if refused:
            self._login = None
            raise GrantRefused(f"the head refused {place}: {error}") from None
        said = error.reason if isinstance(error, tls.Untrusted) else str(error)
        reason = said or "the connection was closed"
        raise StagingFault(f"{place} failed: {reason}") from None

    def _drop(self) -> None:
        control, self._control, self._login = self._control, None, None
        if control is None:
            return
        if control.sock is not None:
            self._sockets.close(control.sock)
        control.close()


def _push(
    data: socket.socket, file: BinaryIO, on_bytes: OnBytes | None, packer: Packer | None
) -> None:
    while block := _read(file, _CHUNK if packer is None else PIECE_BYTES):
        if packer is None:
            data.sendall(block)
        else:
            packed, begun_at = packer.pack(block), time.perf_counter()
            data.sendall(packed)
            packer.sent(len(packed), time.perf_counter() - begun_at)
        if on_bytes is not None:
            on_bytes(len(block))


def _finish(data: socket.socket) -> None:
    """Say that the stream, and so the file, has ended; before the reply is awaited."""
    with suppress(OSError):
        if isinstance(data, ssl.SSLSocket):
            data.unwrap()
        else:
            data.shutdown(socket.SHUT_WR)


def _place(sock: socket.socket) -> str:
    host, port = sock.getpeername()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _read(file: BinaryIO, count: int) -> bytes:
    try:
        return file.read(count)
    except OSError as error:
        raise _unreadable(Path(file.name), error) from None


class _Puller:
    """Writes what a data connection brings into a file, counting and hashing it."""

    def __init__(
        self,
        file: BinaryIO,
        target: Path,
        expect_bytes: int | None,
        on_bytes: OnBytes | None,
        digest: hashlib._Hash | None,
    ) -> None:
        self._file, self._target = file, target
        self._expect, self._on_bytes = expect_bytes, on_bytes
        self._size, self._digest = 0, digest

    @property
    def sha256(self) -> str:
        return "" if self._digest is None else self._digest.hexdigest()

    def pull(self, data: socket.socket) -> None:
        room = memoryview(bytearray(_CHUNK))
        while block := room[: _fill(data, room)]:
            self._size += len(block)
            if self._expect is not None and self._size > self._expect:
                raise StagingFault(
                    f"the head sends more than the {self._expect} bytes it announced"
                )
            if self._digest is not None:
                self._digest.update(block)
            self._write(block)
            if self._on_bytes is not None:
                self._on_bytes(len(block))

    def check_whole(self) -> None:
        if self._expect is not None and self._size != self._expect:
            raise StagingFault(f"{self._size} bytes arrived of {self._expect}")

    def _write(self, view: memoryview) -> None:
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise _unwritable(self._target, error) from None


def _fill(data: socket.socket, room: memoryview) -> int:
    """Receive until ``room`` is full or the stream ends: TLS gives but a record at a time."""
    filled = 0
    while filled < len(room) and (count := data.recv_into(room[filled:])):
        filled += count
    return filled


def _unreadable(path: Path, error: OSError) -> LocalFault:
    return LocalFault(f"cannot read {path}: {error.strerror}")


def _unwritable(path: Path, error: OSError) -> LocalFault:
    return LocalFault(f"cannot write {path}: {error.strerror}")
