"""The node daemon: puts its parts together, keeps a connection to the head, and ends in order.

``run_node`` is the "main" thread; "dial" lives while a connection is made, all others are
node.threads's. The command has parsed the settings and set up logging and signals.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import random
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from clusterray.core.errors import LocalFault, NoHead
from clusterray.core.model import PovrayClass
from clusterray.node.backoff import Backoff
from clusterray.node.canary import CanaryStopped, PovrayWatch
from clusterray.node.fitness import Fitness, Workplace
from clusterray.node.folders import empty_folder
from clusterray.node.holdings import Holdings
from clusterray.node.light_cache import LightCache
from clusterray.node.machine import memory_bytes, usable_cores
from clusterray.node.salvage import Salvage
from clusterray.node.sandbox import (
    Limits,
    Sandbox,
    Wall,
    Walls,
    choose_sandbox,
    look_for_walls,
    memory_for_povray,
)
from clusterray.node.scene_cache import SceneCache
from clusterray.node.session import Drain, Identity, Lost, Refused, Session
from clusterray.node.settings import NodeSettings
from clusterray.node.stop import StopFlag
from clusterray.node.threads import Threads
from clusterray.wire.link import Link, connect
from clusterray.wire.tls import Untrusted
from clusterray.wire.trust import JoinToken, find_token

log = logging.getLogger(__name__)

RECONNECT_FIRST_S = 0.5
RECONNECT_MOST_S = 15.0
CONNECT_S = 10.0
TOKEN_TICK_S = 0.02
"""How often it is looked for a token that is waited for."""
_UUID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def run_node(
    settings: NodeSettings,
    *,
    stop: StopFlag,
    ready: Callable[[], None] = lambda: None,
    environ: Mapping[str, str] | None = None,
    home: Path | None = None,
) -> int:
    """Be a node until ``stop`` asks for the end; gives the exit code 0.

    ``ready`` is called once nothing of this machine is in the way, the head there or not.
    ``environ`` and ``home`` are where a token is sought, those of the process by default. Raises
    LocalFault if the work folder is another node's or cannot be used, or POV-Ray is missing or
    cannot render the canary;
    NoHead if there is no token to begin with. A head that is away or refuses is waited for.
    """
    threading.current_thread().name = "main"
    # POV-Ray runs elsewhere, so that a relative path would not lead it here.
    settings = replace(settings, work=settings.work.absolute())
    environ = os.environ if environ is None else environ
    home = Path.home() if home is None else home
    _check_name(settings.work)
    with _locked(settings.work):
        povray = find_povray(settings.povray)
        if not settings.join_wait_s:
            _find_node_token(settings.join, environ, home)
        sandbox = find_sandbox(settings, look_for_walls(settings.sandbox))
        _say_wall(sandbox)
        watch = PovrayWatch(povray, settings.work, sandbox, canary=settings.canary)
        try:
            povray_class = watch.povray_class(lambda: stop.draining)
            identity = _identity(settings, povray_class, watch.canary_cpu_s)
        except CanaryStopped:
            return 0
        node = _Node(settings, stop, environ, home, povray, sandbox, watch, identity)
        # Last of all: whoever makes the token starts meanwhile.
        if _await_node_token(settings, stop, environ, home):
            node.run(ready)
    return 0


class _Node:
    """The parts of a running node."""

    def __init__(
        self,
        settings: NodeSettings,
        stop: StopFlag,
        environ: Mapping[str, str],
        home: Path,
        povray: str,
        sandbox: Sandbox,
        watch: PovrayWatch,
        identity: Identity,
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._environ = environ
        self._home = home
        self._watch = watch
        self._identity = identity
        rng = random.Random()
        self._backoff = Backoff(RECONNECT_FIRST_S, RECONNECT_MOST_S, rng)
        self._said = ""
        attempts, scenes = settings.work / "attempts", settings.work / "scenes"
        probes, scouts = settings.work / "probes", settings.work / "scouts"
        self._cache = SceneCache(scenes, settings.scene_cache_bytes)
        light = LightCache(settings.work / "light")
        self._salvage = Salvage(settings.work / "blocks", _blocks_of(identity.povray))
        try:
            if kept := self._salvage.adopt(attempts):
                log.info("kept the finished blocks of %d killed renders", kept)
            if leftovers := empty_folder(attempts):
                log.info("removed %d unfinished attempts of an earlier run", leftovers)
            for beside in (probes, scouts):
                empty_folder(beside)
            self._cache.open()
            light.open()
        except OSError as error:
            raise LocalFault(f"the work folder {settings.work} cannot be used: {error}") from None
        self._holdings = Holdings(attempts, rng)
        workplace = Workplace(settings.work, (attempts, scenes), settings.least_free_bytes)
        self._fitness = Fitness(workplace, self._holdings.tell)
        self._threads = Threads(
            povray=povray,
            sandbox=sandbox,
            threads=identity.threads,
            cache=self._cache,
            light=light,
            salvage=self._salvage,
            holdings=self._holdings,
            watch=watch,
            fitness=self._fitness,
            probes=probes,
            scouts=scouts,
            overlap=settings.overlap,
        )
        self._threads.look()
        self._drain = Drain(stop, self._holdings, settings.drain_s)

    def run(self, ready: Callable[[], None]) -> None:
        """Connect, talk, connect again, until the node is to leave."""
        self._threads.start()
        try:
            ready()
            while not self._drain.over():
                if not self._talk():
                    self._stop.wait(min(self._backoff.next_s(), self._drain.left_s()))
                if self._holdings.broken:
                    raise LocalFault(
                        "the node cannot go on: one of its threads ended; see the lines above"
                    )
        finally:
            self._threads.stop()
        log.info("the node has ended")

    def _talk(self) -> bool:
        """Make one connection and use it; False if it is to be tried again later."""
        if not self._know_povray():
            return False
        try:
            token = _find_node_token(self._settings.join, self._environ, self._home)
            sock = self._dial(token)
            if sock is None:
                return False
            self._converse(Link(sock), token)
        except Refused as refused:
            self._say_once(f"the head refuses this node and is asked again: {refused}")
            return False
        except (Lost, NoHead) as fault:
            self._say_once(str(fault))
            return False
        return True

    def _know_povray(self) -> bool:
        """Test POV-Ray again if it has changed, so that HELLO tells the truth.

        False if it cannot be used now: an upgrade may be in its middle. A node that is to leave
        takes nothing more, and need not know.
        """
        if self._stop.draining:
            return True
        try:
            povray = self._watch.povray_class(lambda: self._stop.draining)
        except LocalFault as fault:
            self._say_once(str(fault))
            return False
        except CanaryStopped:
            return True
        took_s = self._watch.canary_cpu_s
        self._identity = replace(self._identity, povray=povray, canary_cpu_s=took_s)
        self._salvage.povray_is(_blocks_of(povray))
        self._holdings.povray_tested()
        return True

    def _converse(self, link: Link, token: JoinToken) -> None:
        session = Session(
            link, token, self._identity, self._holdings, self._fitness, self._stop, self._drain
        )
        try:
            session.run()
        except Refused:
            # Also one that was taken in first: asked again at once it would refuse again at once.
            raise
        except Lost:
            if session.joined:
                self._begin_anew()
            raise
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._backoff.reset()
        self._said = ""

    def _dial(self, token: JoinToken) -> socket.socket | None:
        """Connect in a thread of its own, so that a signal need not wait for a dead network.

        None if the node is to leave meanwhile; raises Lost, Untrusted.
        """
        call = _Call(token, self._stop)
        call.start()
        while not call.ended and not self._drain.over():
            self._stop.wait(self._drain.left_s())
        return call.take()

    def _say_once(self, sentence: str) -> None:
        """Log what keeps the node from its head, but not again for each of its tries."""
        if sentence != self._said:
            log.warning("%s", sentence)
            self._said = sentence


class _Call(threading.Thread):
    """The "dial" thread: makes one connection, which ``take`` gives to "main" or nobody."""

    def __init__(self, token: JoinToken, stop: StopFlag) -> None:
        super().__init__(name="dial", daemon=True)
        self._token = token
        self._stop = stop
        # Guards _sock, _error and _abandoned, which decide who closes the socket.
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._error: OSError | Untrusted | None = None
        self._abandoned = False

    def run(self) -> None:
        try:
            token = self._token
            sock = connect(token.host, token.port, CONNECT_S, token.fingerprint)
        except (OSError, Untrusted) as error:
            self._end(None, error)
        else:
            self._end(sock, None)

    def _end(self, sock: socket.socket | None, error: OSError | Untrusted | None) -> None:
        with self._lock:
            if self._abandoned:
                if sock is not None:
                    sock.close()
                return
            self._sock, self._error = sock, error
            self._stop.poke()

    def take(self) -> socket.socket | None:
        """Give the socket; None if the call is still under way and abandoned now.

        Raises Lost, Untrusted.
        """
        with self._lock:
            self._abandoned = True
            if isinstance(self._error, Untrusted):
                raise self._error
            if self._error is not None:
                raise Lost(f"no head answers at {self._token.address}: {self._error}")
            return self._sock

    @property
    def ended(self) -> bool:
        """Tell whether there is a socket or an error to take."""
        with self._lock:
            return self._sock is not None or self._error is not None


def _blocks_of(povray: PovrayClass) -> tuple[str, str]:
    """Name the POV-Ray whose finished blocks can be gone on from: all its class consists of."""
    return povray.version, f"{povray.build} {povray.canary} {povray.includes}"


def _find_node_token(join: str, environ: Mapping[str, str], home: Path) -> JoinToken:
    token = find_token(join, environ=environ, home=home)
    if token.role != "node":
        raise NoHead(
            f"cannot reach a head: this token is of the role {token.role!r}; a node needs the "
            "one in the head's node.token"
        )
    return token


def _await_node_token(
    settings: NodeSettings, stop: StopFlag, environ: Mapping[str, str], home: Path
) -> bool:
    """Wait for a token at most ``join_wait_s``; False if a stop came first.

    Raises NoHead if there is none by then.
    """
    give_up_at = time.monotonic() + settings.join_wait_s
    while not stop.draining:
        try:
            _find_node_token(settings.join, environ, home)
        except NoHead:
            if time.monotonic() >= give_up_at:
                raise
            stop.wait(TOKEN_TICK_S)
        else:
            return True
    return False


def _check_name(work: Path) -> None:
    """Refuse a work folder below which every render would fail; raises LocalFault."""
    text = str(work)
    if not text.isascii() or not text.isprintable() or '"' in text:
        raise LocalFault(
            f"the work folder {text} cannot be used: POV-Ray reads plain ASCII letters only; "
            "choose another one with --work"
        )


def find_sandbox(settings: NodeSettings, walls: Walls) -> Sandbox:
    """Give the sandbox that the settings mean on this machine; raises LocalFault."""
    limits = Limits(
        memory_for_povray(settings.memory_limit_bytes),
        settings.file_limit_bytes,
        settings.cpu_limit_s,
        settings.wall_limit_s,
    )
    for path in settings.sandbox_reads:
        if not path.exists():
            raise LocalFault(f"{path} is not there, which POV-Ray is to read (sandbox_reads)")
    return choose_sandbox(settings.sandbox, walls, limits, settings.sandbox_reads)


def _say_wall(sandbox: Sandbox) -> None:
    if sandbox.wall is Wall.NONE:
        log.warning("POV-Ray runs without a wall: every scene can do what this user can")
        return
    log.info("POV-Ray runs behind %s", sandbox)
    for gap in sandbox.gaps():
        log.warning("the wall leaves open: %s", gap)


def find_povray(name: str) -> str:
    """Give the absolute path of the POV-Ray program; raises LocalFault."""
    found = shutil.which(name)
    if found is not None:
        return str(Path(found).absolute())
    if "/" in name:
        raise LocalFault(f"{name} is not a program: check --povray, or apt install povray")
    raise LocalFault(f"{name} was not found: apt install povray")


def _identity(settings: NodeSettings, povray: PovrayClass, canary_cpu_s: float) -> Identity:
    cores = usable_cores()
    return Identity(
        uuid=_kept_uuid(settings.work / "uuid"),
        name=settings.name or platform.node() or "node",
        cores=cores,
        threads=settings.threads or cores,
        memory_bytes=memory_bytes(),
        povray=povray,
        canary_cpu_s=canary_cpu_s,
        instance=uuid.uuid4().hex,
    )


def _kept_uuid(file: Path) -> str:
    """Give the node's uuid, made and written at the first start; raises LocalFault."""
    try:
        known = file.read_text(encoding="utf-8", errors="replace").strip()
        if _UUID.fullmatch(known):
            return known
    except FileNotFoundError:
        pass
    except OSError as error:
        raise LocalFault(f"{file} cannot be read: {error.strerror}") from None
    fresh = uuid.uuid4().hex
    part = file.with_name("uuid.part")
    try:
        part.write_text(fresh + "\n", encoding="ascii")
        part.replace(file)
    except OSError as error:
        raise LocalFault(f"{file} cannot be written: {error.strerror}") from None
    return fresh


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Hold the work folder for this process alone; raises LocalFault.

    The lock goes with the process however it ends; the file stays and names the last holder.
    """
    try:
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (work / "lock").open("a+", encoding="ascii", errors="replace")
    except OSError as error:
        raise LocalFault(f"the work folder {work} cannot be used: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read(32).strip() or "unknown"
            raise LocalFault(
                f"the work folder {work} is in use by the node with process id {holder}; "
                "give this one a --work folder of its own"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
