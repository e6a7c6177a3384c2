"""A thread that renders: it takes one attempt after the other, from its lease to its tile.

"render-1" and "render-2" each run one RenderLoop: scene, POV-Ray, crop, hash. What they work on and
what they report goes through node.holdings, which also says when the second one may begin; the
caches, the salvage and the fitness are shared by both. Knows nothing of the control connection.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from clusterray.core.errors import LocalFault
from clusterray.core.model import Rect
from clusterray.images.tile import TileFault, crop_tile
from clusterray.node.beside import Beside, Task
from clusterray.node.canary import PovrayWatch
from clusterray.node.failures import TEXT_CHARACTERS, failed, machine_failure
from clusterray.node.fitness import LOOK_S, Fitness
from clusterray.node.held import Gone, Held
from clusterray.node.holdings import Holdings
from clusterray.node.light_cache import LightCache, LightDamaged
from clusterray.node.light_pass import LightRender, PhotonRender
from clusterray.node.live import LiveBlocks
from clusterray.node.lookout import Lookout
from clusterray.node.probe import TOO_MANY, TOO_SHORT, Prober, is_due
from clusterray.node.renderer import (
    BlocksDone,
    Render,
    RenderCancelled,
    RenderFailed,
    RenderTimes,
)
from clusterray.node.salvage import Salvage
from clusterray.node.sandbox import Sandbox
from clusterray.node.scene_cache import TAR_NAME, SceneCache, SceneDamaged, link_tree
from clusterray.node.scout import TOO_MANY_SCOUTS, Scouter
from clusterray.node.stub_tile import StubTiles
from clusterray.node.transfer import Fetcher, SceneRefused
from clusterray.node.turns import Waiting
from clusterray.povray.command import add_light_footer
from clusterray.povray.gamma import read_assumed_gamma
from clusterray.povray.light_file import seat_samples
from clusterray.povray.live import SmallCanvas
from clusterray.povray.photons import load_photons, save_photons
from clusterray.povray.scout import region_of
from clusterray.wire.protocol import (
    MAX_BLOCKS_BYTES,
    Grant,
    LeaseStage,
    LightRef,
    Phase,
    Probed,
    Scouted,
)

log = logging.getLogger(__name__)

RESUMES = 2
"""How often an attempt goes on after a POV-Ray that something killed; each must get further."""
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


class RenderLoop:
    """From a lease to a tile in the attempt's folder, again and again, on one thread."""

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
        lookout: Lookout,
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
        self._fetcher = Fetcher(holdings)
        self._scouter = scouter
        self._lookout = lookout
        self._stubs = StubTiles(povray, sandbox, threads, holdings)

    def run(self) -> None:
        """Work until the node stops."""
        try:
            self._run()
        finally:
            self._fetcher.close()

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
        except SceneRefused:
            self._holdings.hand_back(held, "the head no longer lets this attempt read its scene")
        except RenderFailed as failure:
            self._fail(held, failure)
        except (SceneDamaged, LightDamaged) as damage:
            self._fail(held, RenderFailed("node", str(damage)))
        except TileFault as fault:
            left = f"POV-Ray left no whole picture: {fault}"
            self._fail(held, RenderFailed("node", left, text=held.text))
        except (OSError, LocalFault) as error:
            self._fail(held, machine_failure(error))
        else:
            self._holdings.rendered(held)

    def _fail(self, held: Held, failure: RenderFailed) -> None:
        """Report a failure, after the head knows if this node cannot work now.

        While the attempt's files are still there: they may be what fills the disk.
        """
        if failure.fault == "node" and (trouble := self.look()):
            failure.message = f"{trouble}; {failure.message}"
        self._holdings.fail(held, failed(held, failure))

    def _make_tile(self, held: Held) -> None:
        clock = time.monotonic
        began_at = clock()
        scene = self._acquire(held)
        try:
            held.folder.create()
            self._furnish(held, scene)
            held.seconds.fetch = clock() - began_at
            held.outlook.fetched(held.seconds.fetch)
            if held.lease.scout:
                self._begin_scout(held)
            self._render(held, scene)
        finally:
            self._cache.release(held.lease.scene.id)
        if held.lease.probe and not held.probe_begun:
            self._holdings.tell(Probed(held.attempt, None, TOO_SHORT))
        self._lookout.all_done(held)
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
            rect, kind = held.line.close(), held.spec.file_format
            size = (held.spec.width, held.spec.height)
            if held.own_frame:
                size = (rect.width, rect.height)
                rect = Rect(0, 0, *size)
            crop_tile(folder.picture, rect, folder.tile, kind, size=size, threads=self._threads)
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
            light,
            lambda part: self._fetcher.fetch(held, light.read, part, light.size),
            self._waiting(held),
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
            except BlocksDone as done:
                held.line.close()
                self._count(held, done.times)
                kept = self._salvage.finished(held)
                if self._stubs.make(held, scene, kept):
                    return
                # The next one makes its tile itself.
                held.line.by_blocks = False
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
        held.text = times.text[-TEXT_CHARACTERS:]

    def _run_povray(self, held: Held, scene: Path, kept_pixels: int) -> None:
        kind = _RENDERS[held.lease.stage]
        live = self._live_blocks(held)

        def look(phase: Phase, done: int, total: int) -> None:
            self._holdings.progress(held, phase, done, total, render.moves)
            self._lookout.look(held, render)
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
        held.outlook.begins(time.monotonic(), self._threads)
        with self._holdings.abortable(held, lambda at_once: render.cancel(at_once=at_once)):
            try:
                times = render.run()
            except BlocksDone:
                self._lookout.all_done(held)
                raise
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
        scene = self._acquire(held)
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

    def _acquire(self, held: Held) -> Path:
        """Give the scene's folder, held; raises as ``SceneCache.acquire`` and ``_download`` do."""
        download = partial(self._download, held)
        return self._cache.acquire(held.lease.scene, download, self._waiting(held))

    def _waiting(self, held: Held) -> Waiting:
        """Have a wait for what the other thread fetches end when the attempt counts no more."""
        return lambda end: self._holdings.abortable(held, lambda _at_once: end())

    def _download(self, held: Held, name: str, target: Path, size: int) -> None:
        """Store what the head has of the scene under ``name``; raises as ``Fetcher.fetch``."""
        # The tar, and what is in it.
        self._fitness.make_room(self._make_room, 2 * size)
        scene, read = held.lease.scene.id, held.lease.read
        log.info("%s: fetching %.20s of scene %.12s, %d bytes", held.words, name, scene, size)
        # The head may call the tar what it likes.
        path = read.path + name.removeprefix(TAR_NAME) if name.startswith(TAR_NAME) else name
        self._fetcher.fetch(held, Grant(read.user, read.password, path), target, size)


def _measure(tile: Path) -> tuple[int, str]:
    """Give the size in bytes and the SHA-256 of a file."""
    with tile.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return tile.stat().st_size, digest
