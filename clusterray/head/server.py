"""The head process: builds its rooms, starts their threads, takes connections in, stops in order.

Wiring only. The main thread owns the listening socket and waits in ``run``; ``request_stop`` may
be called from a signal handler or any thread.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from wsgiref.types import WSGIApplication

from clusterray.core.errors import LocalFault, NoHead
from clusterray.core.events import Compared, FrameFailed, LightJoined, TileNotKept
from clusterray.core.farm import Farm
from clusterray.core.model import AttemptId
from clusterray.head.allocator import give_back, look_at_all, look_seldom, share_arenas
from clusterray.head.certificate import HeadCertificate, head_certificate
from clusterray.head.checked_tiles import CheckedTiles
from clusterray.head.chores import Chores
from clusterray.head.connections import Connection
from clusterray.head.conversation import Services
from clusterray.head.doorkeeper import Doorkeeper
from clusterray.head.ftp_server import FtpLimits, FtpServer
from clusterray.head.keeper import Keeper
from clusterray.head.letters import PictureWritten
from clusterray.head.listening import bind
from clusterray.head.one_core import OneCore
from clusterray.head.ownership import may_touch, seen_by
from clusterray.head.randomness import Randomness
from clusterray.head.scene_store import SceneStore
from clusterray.head.settings import HeadSettings
from clusterray.head.state_folder import Ports, StateFolder
from clusterray.head.stitcher import Stitcher
from clusterray.head.store import Store
from clusterray.head.task_manager import TaskManager
from clusterray.head.tokens import TokenRecord, TokenStore
from clusterray.head.web.late_app import LateApp
from clusterray.head.web.web_server import WebServer
from clusterray.wire.scene_names import ArchiveLimits
from clusterray.wire.trust import JoinToken

BACKLOG = 1024
THREAD_STACK_BYTES = 1 << 20
"""A thousand connections are a thousand stacks; ours are shallow."""
TIDY_EVERY_S = 60.0
"""So often what connections leave behind is let go of."""

_log = logging.getLogger("clusterray.head.server")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Ready:
    """Where the head listens."""

    host: str
    control: int
    ftp: int
    http: int

    def line(self) -> str:
        """Give the one line the daemon prints when it is ready."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ready control={host}:{self.control} ftp={host}:{self.ftp} http={host}:{self.http}"


class Head:
    """A head: ``start``, then ``run`` until ``request_stop``, then ``stop``.

    ``alone``: the process is the head's own, which may say on which cores its threads run.
    """

    def __init__(self, settings: HeadSettings, *, alone: bool = False) -> None:
        self.crashed = False
        self._cores = OneCore() if alone else None
        self._settings = settings
        self._certificate: HeadCertificate | None = None
        self._doorkeeper = Doorkeeper(None if settings.tls else settings.plain_networks)
        self._folder = StateFolder(settings.state)
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        self._connections: list[Connection] = []
        self._undo = contextlib.ExitStack()

    # ---------------------------------------------------------------- start

    def start(self) -> Ready:
        """Open the folder, bind the ports, start the threads, write the token files.

        Raises LocalFault in words; whatever had been started is stopped again.
        """
        try:
            return self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> Ready:
        _raise_open_files()
        threading.stack_size(THREAD_STACK_BYTES)
        share_arenas()
        look_seldom()
        settings, folder, undo = self._settings, self._folder, self._undo
        undo.callback(self._close_waker)
        folder.open()
        undo.callback(folder.close)
        certificate = self._certificate = head_certificate(folder.root) if settings.tls else None
        if certificate is None:
            _warn_plain(settings)
        tokens = TokenStore(folder.root)
        scenes = SceneStore(folder.scenes, self._limits(), settings.scene_store_bytes)
        remembered = folder.ports()

        self._listening = _at_port(
            settings.port, remembered.control, lambda port: _listen(settings.listen, port)
        )
        undo.callback(self._listening.close)
        ftp = _at_port(settings.ftp_port, remembered.ftp, self._make_ftp)
        ftp.start()
        undo.callback(ftp.stop)

        checked = CheckedTiles()
        stitcher = Stitcher(
            lambda *written: manager.post(PictureWritten(*written)),
            lambda *failed: manager.post(FrameFailed(*failed)),
            on_joined=lambda *joined: manager.post(LightJoined(*joined)),
            on_compared=lambda *compared: manager.post(Compared(*compared)),
            checked=checked,
        )
        farm = Farm(
            Randomness(),
            detached_s=settings.detached_s,
            max_jobs=settings.max_jobs,
            keep_s=_seconds_of(settings.keep_results_days),
            patience=settings.patience,
        )
        store = Store(folder.store)
        undo.callback(store.close)
        chores = Chores()
        chores.start()
        undo.callback(chores.stop)
        manager = TaskManager(
            farm,
            store,
            folder,
            ftp,
            scenes,
            stitcher,
            chores,
            on_crash=self._crash,
            disk_bytes=settings.disk_bytes,
            jobs_per_token=settings.max_jobs_per_token,
        )
        self._manager = manager
        undo.callback(manager.stop)
        stitcher.start()
        undo.callback(stitcher.stop)
        manager.start()
        keeper = Keeper(manager.post, self._crash, checked)
        keeper.start()
        undo.callback(keeper.stop)
        undo.callback(self._close_connections)

        web = _at_port(
            settings.http_port,
            remembered.http,
            lambda port: self._make_web(port, manager, stitcher, tokens),
        )
        web.start()
        undo.callback(web.stop)

        control = self._listening.getsockname()[1]
        folder.remember_ports(Ports(control, ftp.port, web.port))
        tokens.write_files(
            settings.advertise or settings.listen,
            control,
            certificate.fingerprint if certificate else "",
        )
        self._services = Services(
            settings,
            folder.farm_id(),
            ftp.port,
            web.port,
            manager,
            keeper,
            tokens,
            ftp,
            scenes,
            folder.partials,
            self._doorkeeper,
            certificate.context if certificate else None,
        )
        return Ready(settings.listen, control, ftp.port, web.port)

    def _limits(self) -> ArchiveLimits:
        settings = self._settings
        return ArchiveLimits(settings.max_scene_bytes, settings.max_scene_files)

    def _make_ftp(self, port: int) -> FtpServer:
        settings, certificate = self._settings, self._certificate
        return FtpServer(
            settings.listen,
            port,
            settings.passive_ports,
            settings.advertise,
            self._not_kept,
            pem=certificate.pem if certificate else None,
            may_knock=self._doorkeeper.may_knock,
            limits=FtpLimits(
                settings.max_strangers,
                settings.max_strangers_per_address,
                settings.max_ftp_sessions_per_address,
            ),
            on_crash=self._crash,
        )

    def _not_kept(self, user: str, reason: str) -> None:
        """Let the farm know of a tile that the ftp thread could not write."""
        kind, _, attempt = user.partition("-")
        if kind == "w":
            words = f"the head cannot keep the tile: {reason}"
            self._manager.post(TileNotKept(AttemptId(attempt), words))

    def _make_web(
        self, port: int, manager: TaskManager, stitcher: Stitcher, tokens: TokenStore
    ) -> WebServer:
        def visitor_of(text: str) -> TokenRecord | None:
            try:
                return tokens.identify(JoinToken.decode(text).secret)
            except NoHead:
                return None

        def may_see(job: str, who: TokenRecord) -> bool:
            return may_touch(who, manager.view().tokens.get(job, ""))

        def preview_for(job: str, who: TokenRecord) -> bytes | None:
            return stitcher.preview(job) if may_see(job, who) else None

        context = self._certificate.context if self._certificate else None

        def make_app() -> WSGIApplication:
            from clusterray.head.web.app import create_app

            return create_app(
                view=lambda who: seen_by(who, manager.view()),
                pictured=lambda job, who: may_see(job, who) and stitcher.has_preview(job),
                preview=preview_for,
                check_token=visitor_of,
                wrong_secret=self._doorkeeper.wrong_secret,
                hosts=_names_of(self._settings),
                secure=context is not None,
            )

        return WebServer(
            LateApp(make_app),
            self._settings.listen,
            port,
            context,
            self._doorkeeper.may_knock,
            connections=self._settings.max_http_connections,
        )

    # ---------------------------------------------------------------- run

    def run(self) -> None:
        """Take connections in until a stop is requested."""
        tidy_at = time.monotonic() + TIDY_EVERY_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._listening, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while True:
                look_at = self._cores.look_at if self._cores else tidy_at
                left_s = max(0.0, min(tidy_at, look_at) - time.monotonic())
                ready = {key.fileobj for key, _ in selector.select(left_s)}
                if self._wake_read in ready:
                    return
                if self._listening in ready:
                    self._accept()
                if self._cores and time.monotonic() >= self._cores.look_at:
                    self._cores.look()
                if time.monotonic() >= tidy_at:
                    self._tidy()
                    tidy_at = time.monotonic() + TIDY_EVERY_S

    def request_stop(self) -> None:
        """End ``run``; from any thread or signal handler."""
        with contextlib.suppress(OSError):
            self._wake_write.send(b"\0")

    def _accept(self) -> None:
        try:
            sock, address = self._listening.accept()
        except OSError as error:
            # The peer may be gone already, or descriptors short: neither ends the service.
            _log.warning("a connection was not taken in: %s", error)
            return
        self._forget_ended()
        connection = Connection(sock, address[0], self._services)
        self._make_way_for(connection)
        self._connections.append(connection)
        connection.start()

    def _tidy(self) -> None:
        self._forget_ended()
        if self._cores and self._cores.calm:
            look_at_all()
        give_back()

    def _forget_ended(self) -> None:
        self._connections = [known for known in self._connections if known.is_alive()]

    def _make_way_for(self, newcomer: Connection) -> None:
        """Close the one that has been a stranger longest if there are too many; else the newcomer.

        Who has a good secret shows it in a moment, so it is not the longest for long.
        """
        settings = self._settings
        staying = [known for known in self._connections if not known.closing]
        strangers = [known for known in staying if known.stranger]
        neighbours = [known for known in strangers if known.site == newcomer.site]
        if len(neighbours) >= settings.max_strangers_per_address:
            neighbours[0].close()
        elif strangers and (
            len(strangers) >= settings.max_strangers or len(staying) >= settings.max_connections
        ):
            strangers[0].close()
        elif len(staying) >= settings.max_connections:
            _log.warning("there are %d connections; see max_connections", len(staying))
            newcomer.close()

    def _crash(self) -> None:
        self.crashed = True
        self.request_stop()

    # ---------------------------------------------------------------- stop

    def stop(self) -> None:
        """Close every connection, end every thread, give ports and folder free; idempotent."""
        self._undo.close()

    def _close_connections(self) -> None:
        for connection in self._connections:
            connection.close()
        for connection in self._connections:
            connection.join()

    def _close_waker(self) -> None:
        self._wake_read.close()
        self._wake_write.close()


def _at_port(wanted: int, remembered: int, make: Callable[[int], Made]) -> Made:
    """Make a server at the port wanted, or for port 0 at the last start's, or at any free one."""
    if wanted == 0 and remembered != 0:
        with contextlib.suppress(LocalFault):
            return make(remembered)
    return make(wanted)


def _warn_plain(settings: HeadSettings) -> None:
    who = ", ".join(map(str, settings.plain_networks))
    _log.warning(
        "TLS is off: tokens, scenes and pictures cross %s as they are, for everybody there to read",
        f"this machine and {who}" if who else "this machine",
    )


def _names_of(settings: HeadSettings) -> frozenset[str]:
    """Give the names under which people may open the page, beside every address."""
    own = socket.gethostname()
    given = (settings.listen, settings.advertise, own, own.partition(".")[0])
    return frozenset(name.lower() for name in given if name) | {"localhost"}


def _seconds_of(days: float | None) -> float | None:
    return None if days is None else days * 86_400


def _listen(host: str, port: int) -> socket.socket:
    listening = bind(host, port, "control connections", "--port")
    try:
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise LocalFault(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listening


def _raise_open_files() -> None:
    """Allow as many open files as the system lets us: each node is a few sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
