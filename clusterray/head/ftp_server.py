"""The head's FTP server: pyftpdlib wrapped in one typed room, which the ``ftp_`` modules are.

Responsible for letting the files of one purpose per login in or out, as FileGrants say. The thread
``ftp`` runs everything below the banner "ftp thread"; the five public methods of FtpServer may be
called from any thread and only leave a note in a deque and wake that thread. Must not know what the
files are: a received file proves nothing, whoever asked for it checks its size and hash.

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

import hmac
import ipaddress
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyftpdlib.ioloop import IOLoop

from clusterray.head.ftp_data import tls_context
from clusterray.head.ftp_loop import Listener, Waker, route_log
from clusterray.head.ftp_session import IDLE_SECONDS, TLS_COMMANDS, Authorizer, Session
from clusterray.head.grants import FileGrant
from clusterray.head.listening import bind

LOGIN_SECONDS: Final = 30.0
"""A session that shows no valid login for so long is closed.

One that has shown a valid one before has IDLE_SECONDS: its node renders, and comes with the next.
"""
_SWEEP_S: Final = 5.0

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
        route_log()
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
        self._waker = Waker(self._loop)
        self._grants: dict[str, FileGrant] = {}
        self._announced: dict[str, int] = {}
        self._sessions: set[Session] = set()
        # The sessions of each user who is logged in; other threads only ask whether there are any.
        self._logged_in: dict[str, list[Session]] = {}
        self._listener = Listener(
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
        # Without waking the thread: every login reads the notes first.
        self._notes.append(grant)

    def announced(self, user: str, size: int) -> None:
        """Cut this login's uploads off after ``size`` bytes, also one that is under way.

        It never allows more than the grant; an unknown user is nothing to do.
        """
        # Likewise: what an upload may have is asked at each portion of it.
        self._notes.append(_Announced(user, size))

    def revoke(self, user: str) -> None:
        """Let this login in no more; an unknown user is nothing to do.

        After this call no transfer under the login begins or is reported as complete. A session in
        the middle of one is closed and what it stored so far deleted; a session between transfers
        is logged out and closed unless it brings another login within IDLE_SECONDS, so that a
        node can go on to its next tile without connecting anew.
        """
        self._notes.append(_Revoke(user))
        # Without a session nothing is to be ended; whoever logs in reads the notes first.
        if user in self._logged_in:
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
    ) -> type[Session]:
        ports = None if passive_ports is None else range(passive_ports[0], passive_ports[1] + 1)
        settings = {
            "room": self,
            "authorizer": Authorizer(self),
            "passive_ports": ports,
            "masquerade_address": masquerade if _is_ipv4(masquerade) else None,
        }
        if pem is not None:
            settings |= {
                "ssl_context": tls_context(pem),
                "tls_control_required": True,
                "tls_data_required": True,
                "proto_cmds": Session.proto_cmds | TLS_COMMANDS,
            }
        return type("_ServedSession", (Session,), settings)

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
        for session in list(self._logged_in.get(user, ())):
            session.withdraw()

    def authenticate(self, user: str, password: str) -> FileGrant | None:
        """Give the grant this login opens, or None."""
        self.drain()
        grant = self._grants.get(user)
        expected = "" if grant is None else grant.password
        # Also for an unknown user, so that the time taken does not tell which users exist.
        same = hmac.compare_digest(expected.encode(), password.encode("utf-8", "replace"))
        return grant if same and grant is not None and grant.password else None

    def logged_in(self, session: Session, user: str) -> None:
        """Note that a session has a login of this user, which may have been revoked just now."""
        self._logged_in.setdefault(user, []).append(session)
        self.drain()

    def logged_out(self, session: Session, user: str) -> None:
        """Note that a session has no login of this user any more."""
        sessions = self._logged_in[user]
        sessions.remove(session)
        if not sessions:
            del self._logged_in[user]

    def is_current(self, grant: FileGrant) -> bool:
        """Tell whether this very grant still stands."""
        self.drain()
        return self._grants.get(grant.user) == grant

    def most_bytes(self, grant: FileGrant) -> int | None:
        """Give where an upload under this grant is cut off, None if nowhere."""
        self.drain()
        limits = (grant.max_bytes, self._announced.get(grant.user))
        return min((limit for limit in limits if limit is not None), default=None)

    def unwritable(self, grant: FileGrant, error: OSError) -> None:
        """Say that an upload cannot be written, which is no fault of its sender."""
        reason = error.strerror or str(error)
        _log.error("cannot write the upload %s: %s", grant.real, reason)
        self._on_unwritable(grant.user, reason)

    def opened(self, session: Session) -> None:
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

    def closed(self, session: Session) -> None:
        """Forget a session; it may be unknown already."""
        self._sessions.discard(session)

    def _sweep(self) -> None:
        now = time.monotonic()
        for session in list(self._sessions):
            patience = IDLE_SECONDS if session.was_known else LOGIN_SECONDS
            if session.grant is None and now - session.unknown_since > patience:
                session.close()

    def _close_all(self) -> None:
        # Not all sockets stand in the loop's map: a session paused after a wrong login does not.
        for session in list(self._sessions):
            session.close()
        self._listener.close()
        self._loop.close()


def _unknown_since(session: Session) -> float:
    return session.unknown_since


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
