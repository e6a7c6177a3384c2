"""The threads that turn leases into tiles at the head.

The "render" thread takes one attempt after the other: scene, POV-Ray, crop, hash. The "upload"
thread stores finished tiles by FTP, so that the next attempt renders meanwhile; "probe" and
"scout" are node.probe's and node.scout's. What they work on and what they report goes through
node.holdings. They know nothing of the control connection.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from clusterray.core.errors import LocalFault
from clusterray.images.tile import TileFault, crop_tile
from clusterray.node.beside import Beside, Task
from clusterray.node.canary import PovrayWatch
from clusterray.node.fitness import LOOK_S, Fitness
from clusterray.node.holdings import Abort, Gone, Held, Holdings, Upload
from clusterray.node.kept_session import KeptSession
from clusterray.node.light_cache import LightCache, LightDamaged
from clusterray.node.light_pass import LightRender, PhotonRender
from clusterray.node.live import LiveBlocks
from clusterray.node.probe import TOO_MANY, TOO_SHORT, Prober, is_due
from clusterray.node.renderer import (
    Render,
    RenderCancelled,
    RenderCut,
    RenderFailed,
    RenderTimes,
)
from clusterray.node.salvage import Salvage
from clusterray.node.sandbox import Sandbox
from clusterray.node.scene_cache import TAR_NAME, SceneCache, SceneDamaged, link_tree
from clusterray.node.scout import TOO_MANY_SCOUTS, Scouter
from clusterray.node.stub_tile import StubTiles
from clusterray.povray.command import add_light_footer
from clusterray.povray.gamma import read_assumed_gamma
from clusterray.povray.light_file import seat_samples
from clusterray.povray.live import SmallCanvas
from clusterray.povray.photons import load_photons, save_photons
from clusterray.povray.scout import region_of
from clusterray.wire.protocol import (
    MAX_BLOCKS_BYTES,
    Failed,
    Grant,
    LeaseStage,
    LightRef,
    Phase,
    Probed,
    Scouted,
)
from clusterray.wire.staging import FtpSession, GrantRefused, StagingFault

log = logging.getLogger(__name__)

REFUSED_S = 10.0
"""How long an attempt whose scene the head refuses to give waits for its DROP, then goes back."""
RESUMES = 2
"""How often an attempt goes on after a POV-Ray that something killed; each must get further."""
JOIN_S = 5.0
"""How long ``stop`` waits for each thread."""
_RENDERS: dict[LeaseStage, type[Render]] = {
    "photons": PhotonRender,
    "light": LightRender,
    "final": Render,
}
_DID: dict[LeaseStage, str] = {
    "photons": "shot the photons of",
    "light": "gathered the light of",
    "final": "rendered",
}
_TEXT_CHARACTERS = 1 << 16
_MESSAGE_CHARACTERS = 8192
_FILE_CHARACTERS = 4096


class Worker:
    """Starts and ends the threads "render", "upload", "probe" and "scout"."""

    def __init__(
        self,
        *,
        povray: str,
        sandbox: Sandbox,
        threads: int,
        cache: SceneCache,
        light: LightCache,
        salvage: Salvage,
        holdings: Holdings,
        watch: PovrayWatch,
        fitness: Fitness,
        probes: Path,
        scouts: Path,
    ) -> None:
        self._holdings = holdings
        prober = Prober(povray, sandbox, probes, holdings.tell_in_time)
        scouter = Scouter(povray, sandbox, scouts, holdings.tell_in_time, self._scene_fault)
        self._beside: tuple[Beside, ...] = (prober, scouter)
        holdings.when_unwanted(self._drop)
        self._render = RenderLoop(
            povray,
            sandbox,
            threads,
            cache,
            light,
            salvage,
            holdings,
            watch,
            fitness,
            prober,
            scouter,
        )
        self._loops = (
            ("render", self._render.run),
            ("upload", UploadLoop(holdings).run),
            ("probe", prober.run),
            ("scout", scouter.run),
        )
        self._threads: list[threading.Thread] = []

    def look(self) -> None:
        """Find out before the start whether this node can work, so that the first HELLO says it."""
        self._render.look()

    def start(self) -> None:
        """Start the threads. POV-Ray dies with the one that started it: they live to the end."""
        for name, run in self._loops:
            thread = threading.Thread(target=self._live, args=(run,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Break off what is at work, forget every attempt and end the threads."""
        self._holdings.stop()
        for beside in self._beside:
            beside.stop()
        for thread in self._threads:
            thread.join(JOIN_S)
            if thread.is_alive():
                log.warning("the thread %s did not end in %.0f s", thread.name, JOIN_S)

    def _drop(self, attempt: str) -> None:
        for beside in self._beside:
            beside.drop(attempt)

    def _scene_fault(self, attempt: str, failure: RenderFailed) -> bool:
        return self._holdings.fail_early(attempt, lambda held: _failed(held, failure))

    def _live(self, run: Callable[[], None]) -> None:
        try:
            run()
        finally:
            self._holdings.thread_ended()


class RenderLoop:
    """The "render" thread: from a lease to a tile in the attempt's folder."""

    def __init__(
        self,
        povray: str,
        sandbox: Sandbox,
        threads: int,
        cache: SceneCache,
        light: LightCache,
        salvage: Salvage,
        holdings: Holdings,
        watch: PovrayWatch,
        fitness: Fitness,
        prober: Prober,
        scouter: Scouter,
    ) -> None:
        self._fitness = fitness
        self._povray = povray
        self._sandbox = sandbox
        self._threads = threads
        self._cache = cache
        self._light = light
        self._salvage = salvage
        self._holdings = holdings
        self._watch = watch
        self._prober = prober
        self._session = KeptSession()
        self._scouter = scouter
        self._stubs = StubTiles(povray, sandbox, threads, holdings)

    def run(self) -> None:
        """Work until the node stops."""
        try:
            self._run()
        finally:
            self._session.close()

    def _run(self) -> None:
        while not self._holdings.stopped:
            held = self._holdings.next_to_render(self._patience_s())
            for scene in (*self._prober.spent(), *self._scouter.spent()):
                self._cache.release(scene)
            if held is None:
                self._salvage.trim()
                if not self._fitness.fit:
                    self.look()
                continue
            try:
                self._work(held)
            finally:
                self._holdings.let_go(held)

    def look(self) -> str:
        """Find out whether this node can work, what it keeps for later making room if need be."""
        return self._fitness.look(self._make_room)

    def _make_room(self, enough: Callable[[], bool]) -> None:
        self._cache.make_room(enough)
        if not enough():
            self._salvage.make_room()

    def _patience_s(self) -> float | None:
        """Give how long to wait for a band before something else is to be done."""
        expires_s = self._salvage.expires_in_s()
        if self._fitness.fit:
            return expires_s
        return LOOK_S if expires_s is None else min(LOOK_S, expires_s)

    def _work(self, held: Held) -> None:
        """Make the tile, or report why not."""
        if self._watch.changed():
            self._holdings.hand_back_for_test(held)
            return
        if trouble := self.look():
            self._holdings.hand_back(held, trouble)
            return
        try:
            self._make_tile(held)
        except (Gone, RenderCancelled):
            return
        except _SceneRefused:
            self._holdings.hand_back(held, "the head no longer lets this attempt read its scene")
        except RenderFailed as failure:
            self._fail(held, failure)
        except (SceneDamaged, LightDamaged) as damage:
            self._fail(held, RenderFailed("node", str(damage)))
        except TileFault as fault:
            left = f"POV-Ray left no whole picture: {fault}"
            self._fail(held, RenderFailed("node", left, text=held.text))
        except (OSError, LocalFault) as error:
            self._fail(held, _machine_failure(error))
        else:
            self._holdings.rendered(held)

    def _fail(self, held: Held, failure: RenderFailed) -> None:
        """Report a failure, after the head knows if this node cannot work now.

        While the attempt's files are still there: they may be what fills the disk.
        """
        if failure.fault == "node" and (trouble := self.look()):
            failure.message = f"{trouble}; {failure.message}"
        _fail(self._holdings, held, failure)

    def _make_tile(self, held: Held) -> None:
        clock = time.monotonic
        began_at = clock()
        scene = self._cache.acquire(held.lease.scene, partial(self._download, held))
        try:
            held.folder.create()
            self._furnish(held, scene)
            held.seconds.fetch = clock() - began_at
            if held.lease.scout:
                self._begin_scout(held)
            self._render(held, scene)
        finally:
            self._cache.release(held.lease.scene.id)
        if held.lease.probe and not held.probe_begun:
            self._holdings.tell(Probed(held.attempt, None, TOO_SHORT))
        rendered_at = clock()
        self._finish(held)
        held.folder.keep_only_tile()
        held.tile_bytes, held.tile_sha256 = _measure(held.folder.tile)
        held.seconds.crop = clock() - rendered_at
        log.info(
            "%s: %s %dx%d in %.1f s",
            held.words,
            _DID[held.lease.stage],
            held.rect.width,
            held.rect.height,
            held.seconds.parse + held.seconds.render,
        )

    def _finish(self, held: Held) -> None:
        """Make the tile of what POV-Ray has left."""
        folder, stage = held.folder, held.lease.stage
        if stage == "final":
            size = (held.spec.width, held.spec.height)
            rect, threads = held.line.close(), self._threads
            kind = held.spec.file_format
            crop_tile(folder.picture, rect, folder.tile, kind, size=size, threads=threads)
            return
        if stage == "light":
            seat_samples(folder.made_light)
        folder.made_light.rename(folder.tile)

    def _furnish(self, held: Held, scene: Path) -> None:
        """Put into the attempt's folder what POV-Ray reads; also for each time it goes on."""
        link_tree(scene, held.folder.scene)
        for light in held.lease.lights:
            self._take_light(held, light)
        if held.lease.stage == "photons":
            save_photons(held.folder.scene, held.spec, held.folder.made_light)

    def _take_light(self, held: Held, light: LightRef) -> None:
        """Put the frame's light beside the scene and have the scene's text use it."""
        shared = self._light.get(
            light, lambda part: self._fetch(held, light.read, part, light.size)
        )
        # A copy of its own: POV-Ray passes over samples that it cannot open, and a file that the
        # scene could write to must not be another attempt's.
        if light.kind == "photons":
            shutil.copyfile(shared, held.folder.photon_map)
            load_photons(held.folder.scene, held.spec, held.folder.photon_map)
        else:
            shutil.copyfile(shared, held.folder.samples)
            add_light_footer(held.folder.scene, held.spec)

    def _render(self, held: Held, scene: Path) -> None:
        """Render what is left of the band; from its finished blocks on where it was cut, or if
        POV-Ray is killed by a signal of somebody else's.

        Not if it got no further than the time before: then it would die there again.
        """
        kept = self._salvage.begin(held)
        tries_left = RESUMES
        while True:
            began_at = time.monotonic()
            try:
                self._run_povray(held, scene, kept)
                return
            except RenderCut as cut:
                held.line.close()
                self._count(held, cut.times)
                kept = self._salvage.finished(held)
                if self._stubs.make(held, scene, kept):
                    return
                if not held.folder.blocks.exists():
                    kept = 0
            except RenderFailed as failure:
                held.seconds.render += time.monotonic() - began_at
                finished = self._salvage.finished(held) if failure.killed and tries_left else 0
                if finished <= kept:
                    raise
                tries_left -= 1
                log.warning(
                    "%s: %s; going on from what it had finished, %.0f %%",
                    held.words,
                    failure.message,
                    100 * finished / held.rect.area,
                )
                kept = finished
            held.folder.keep_only_blocks()
            self._furnish(held, scene)

    def _count(self, held: Held, times: RenderTimes) -> None:
        """Take down what a render of the scene took and said."""
        held.seconds.parse += times.parse_s
        held.seconds.render += times.render_s
        held.gathers, held.used = times.gathers, times.used
        held.text = times.text[-_TEXT_CHARACTERS:]

    def _run_povray(self, held: Held, scene: Path, kept_pixels: int) -> None:
        kind = _RENDERS[held.lease.stage]
        live = self._live_blocks(held)

        def look(phase: Phase, done: int, total: int) -> None:
            self._holdings.progress(held, phase, done, total, render.moves)
            if held.lease.stage == "final":
                # While POV-Ray sleeps at its start.
                self._stubs.look(held, scene)
            wanted = held.lease.probe and not held.probe_begun
            if wanted and phase == "rendering" and is_due(*render.cpu_seconds()):
                self._begin_probe(held)
            if live is not None and phase == "rendering":
                live.look()

        render = kind(
            povray=self._povray,
            sandbox=self._sandbox.reading(scene),
            threads=self._threads,
            spec=held.spec,
            rect=held.rect,
            folder=held.folder,
            on_progress=look,
            kept_pixels=kept_pixels,
            lit=any(light.kind == "radiosity" for light in held.lease.lights),
            line=held.line,
        )
        with self._holdings.abortable(held, lambda at_once: render.cancel(at_once=at_once)):
            times = render.run()
        self._count(held, times)

    def _begin_probe(self, held: Held) -> None:
        """Have the frame probed from now on, its scene held; the band goes on meanwhile."""
        held.probe_begun = True
        if self._prober.full:
            self._holdings.tell(Probed(held.attempt, None, TOO_MANY))
            return
        try:
            self._begin_beside(held, self._prober)
        except OSError as error:
            self._holdings.tell(Probed(held.attempt, None, f"its scene is not at hand: {error}"))

    def _begin_scout(self, held: Held) -> None:
        """Have a quick look at the whole frame while its band is rendered."""
        if self._scouter.full:
            self._holdings.tell(Scouted(held.attempt, reason=TOO_MANY_SCOUTS))
            return
        try:
            self._begin_beside(held, self._scouter)
        except OSError as error:
            reason = f"its scene is not at hand: {error}"
            self._holdings.tell(Scouted(held.attempt, reason=reason))

    def _begin_beside(self, held: Held, beside: Beside) -> None:
        """Have something rendered beside the band, its scene held for it."""
        scene = self._cache.acquire(held.lease.scene, partial(self._download, held))
        beside.add(Task(held.attempt, held.words, held.spec, held.lease.scene.id, scene))

    def _live_blocks(self, held: Held) -> LiveBlocks | None:
        """Give what shows the band's finished blocks, None if they are not wanted."""
        spec, wanted = held.spec, held.lease.live
        if not wanted or held.lease.stage != "final":
            return None
        region = region_of(spec)
        step = -(-max(region.width, region.height) // wanted)
        gamma = read_assumed_gamma(held.folder.scene / spec.input)
        canvas = SmallCanvas(held.rect, (spec.width, spec.height), step, gamma)
        return LiveBlocks(
            held.folder.blocks,
            canvas,
            MAX_BLOCKS_BYTES,
            lambda rect, seen: self._holdings.show(held, rect, seen),
        )

    def _download(self, held: Held, name: str, target: Path, size: int) -> None:
        """Store what the head has of the scene under ``name``; raises as ``_fetch`` does."""
        # The tar, and what is in it.
        self._fitness.make_room(self._make_room, 2 * size)
        scene, read = held.lease.scene.id, held.lease.read
        log.info("%s: fetching %.20s of scene %.12s, %d bytes", held.words, name, scene, size)
        # The head may call the tar what it likes.
        path = read.path + name.removeprefix(TAR_NAME) if name.startswith(TAR_NAME) else name
        self._fetch(held, Grant(read.user, read.password, path), target, size)

    def _fetch(self, held: Held, read: Grant, target: Path, size: int) -> None:
        """Store what ``read`` opens in ``target``, trying again for as long as the lease holds.

        Raises Gone, _SceneRefused, OSError.
        """
        while True:
            connection = self._holdings.wait_leased(held)
            session = self._session.to(connection.ftp_place)
            try:
                with self._holdings.abortable(held, _aborting(session)):
                    session.download(
                        read,
                        target,
                        size,
                        _Counter(self._holdings, held, "fetching", size).add,
                        hashed=False,
                    )
                return
            except Gone:
                self._session.close()
                raise
            except GrantRefused:
                if not self._holdings.wait_for_word(held, REFUSED_S):
                    raise _SceneRefused from None
            except StagingFault as fault:
                self._session.close()
                wait_s = held.backoff.next_s()
                log.warning(
                    "%s: a file of it was not fetched, next try in %.1f s: %s",
                    held.words,
                    wait_s,
                    fault,
                )
                self._holdings.wait_for_word(held, wait_s)


class UploadLoop:
    """The "upload" thread: from a tile in the attempt's folder to the head, by one FTP session."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._session = KeptSession()

    def run(self) -> None:
        """Work until the node stops."""
        try:
            while (upload := self._holdings.next_to_upload()) is not None:
                try:
                    self._work(upload)
                finally:
                    self._holdings.let_go(upload.held)
        finally:
            self._session.close()

    def _work(self, upload: Upload) -> None:
        held, connection, grant = upload.held, upload.connection, upload.grant
        try:
            self._holdings.announce(held, connection)
            began_at = time.monotonic()
            session = self._session.to(connection.ftp_place)
            with self._holdings.abortable(held, _aborting(session)):
                session.upload(
                    grant,
                    held.folder.tile,
                    _Counter(self._holdings, held, "uploading", held.tile_bytes).add,
                )
            held.seconds.upload = time.monotonic() - began_at
        except Gone:
            self._session.close()
        except GrantRefused:
            log.info("%s: the head refuses its tile; waiting for its word", held.words)
            self._holdings.refused(held, grant)
        except StagingFault as fault:
            self._session.close()
            wait_s = self._holdings.retry_later(held)
            log.warning(
                "%s: its tile was not stored, next try in %.1f s: %s", held.words, wait_s, fault
            )
        except LocalFault as error:
            self._session.close()
            _fail(self._holdings, held, _machine_failure(error))
        else:
            self._holdings.stored(held, connection)


class _Counter:
    """Adds up the bytes of a transfer and reports the sum as progress."""

    def __init__(self, holdings: Holdings, held: Held, phase: Phase, total: int) -> None:
        self._holdings = holdings
        self._held = held
        self._phase: Phase = phase
        self._total = total
        self._done = 0

    def add(self, count: int) -> None:
        """Count the bytes just moved."""
        self._done += count
        self._holdings.progress(self._held, self._phase, self._done, self._total)


def _aborting(session: FtpSession) -> Abort:
    return lambda _at_once: session.abort()


class _SceneRefused(Exception):
    """The head refuses the read grant, and neither DROP nor KEEP explained it."""


def _fail(holdings: Holdings, held: Held, failure: RenderFailed) -> None:
    holdings.fail(held, _failed(held, failure))


def _failed(held: Held, failure: RenderFailed) -> Failed:
    log.warning("%s: failed (%s): %s", held.words, failure.fault, failure.message)
    return Failed(
        held.attempt,
        failure.fault,
        failure.message[:_MESSAGE_CHARACTERS],
        failure.file[:_FILE_CHARACTERS],
        failure.line,
        failure.text[-_TEXT_CHARACTERS:],
    )


def _machine_failure(error: OSError | LocalFault) -> RenderFailed:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RenderFailed("node", f"the disk of this node is full: {error}")
    return RenderFailed("node", f"this node cannot work on the band: {error}")


def _measure(tile: Path) -> tuple[int, str]:
    """Give the size in bytes and the SHA-256 of a file."""
    with tile.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return tile.stat().st_size, digest
