"""Blocks that POV-Ray had finished when it, or this daemon, was killed: kept, and gone on from.

The "render" threads share a Salvage; ``adopt`` is called by "main" before they start. POV-Ray's
file of finished blocks lies in the attempt's folder with an origin beside it that says whose
blocks they are. What a killed daemon left is moved out of the attempts into a store of its own,
bounded in bytes and in time, where the next lease of the same pixels finds it: whichever attempt
that is, and whatever rectangle of the grid. Nothing here ever fails an attempt: without its blocks
it is rendered from nothing, as it would have been. Knows nothing of the network.

    <work>/blocks/<name>.pov-state     the blocks, 20 bytes a pixel
    <work>/blocks/<name>.json          their origin; <name> is <seconds since boot>-<uuid>
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from clusterray.core.blocks import BlockGrid
from clusterray.node.folders import AttemptFolder
from clusterray.node.held import Held
from clusterray.node.machine import boot_id
from clusterray.povray.light import scene_texts, wants_shared_light
from clusterray.povray.state_file import (
    STATE_SUFFIX,
    NoStateFile,
    Origin,
    keep_blocks,
    read_blocks,
    read_origin,
)

log = logging.getLogger(__name__)

KEEP_BYTES = 2 << 30
"""Room for what killed daemons left: 100 million pixels. The oldest go first."""
KEEP_S = 3600.0
"""How long that is kept: the head leases a lost band anew within seconds, if it still wants it."""
_LEAST_WAIT_S = 1.0


class Salvage:
    """The finished blocks of this node; ``folder`` is the store, ``povray`` version and build."""

    def __init__(
        self,
        folder: Path,
        povray: tuple[str, str],
        *,
        bound_bytes: int = KEEP_BYTES,
        bound_s: float = KEEP_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._povray = povray
        self._boot = boot_id()
        self._bound_bytes = bound_bytes
        self._bound_s = bound_s
        self._clock = clock
        # Held by the thread that looks through the store, takes of it or removes something; files
        # in an attempt's folder belong to the thread that has the attempt.
        self._lock = threading.Lock()

    # ------------------------------------------------------------ called by the main thread

    def povray_is(self, povray: tuple[str, str]) -> None:
        """POV-Ray has been tested again: blocks of another one are of no use from now on."""
        self._povray = povray

    def adopt(self, attempts: Path) -> int:
        """Take over the blocks that a killed daemon left below ``attempts``; gives their number.

        The attempts' folders stay. OSError if this machine's disk is at fault.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for state in self._folder.iterdir():
            if state.suffix != STATE_SUFFIX and not state.with_suffix(STATE_SUFFIX).exists():
                state.unlink()
        adopted = 0
        if attempts.is_dir():
            for root in attempts.iterdir():
                adopted += self._adopt(AttemptFolder(root))
        self.trim()
        return adopted

    def _adopt(self, attempt: AttemptFolder) -> bool:
        origin = read_origin(attempt.origin)
        if origin is None or not self._usable(origin) or not _has_blocks(attempt.blocks):
            return False
        name = self._folder / f"{self._clock():.0f}-{uuid.uuid4().hex}"
        # The origin comes last: what has none is not looked at, and goes at the next start.
        attempt.blocks.rename(name.with_suffix(STATE_SUFFIX))
        attempt.origin.rename(name.with_suffix(".json"))
        return True

    # ------------------------------------------------------------ called by the render threads

    def begin(self, held: Held) -> int:
        """Say in the attempt's folder whose blocks will be there, and put in those kept already.

        The folder is ready to be rendered in. Gives the number of pixels in these blocks; 0: there
        is nothing to go on from.
        """
        if held.lease.stage != "final":
            # Its blocks are of no picture; without an origin nobody will take them for such.
            return 0
        origin = self._origin(held)
        try:
            origin.write(held.folder.origin)
            with self._lock:
                return self._restore(held, origin)
        except (OSError, NoStateFile) as error:
            log.warning("%s: blocks kept from before cannot be used: %s", held.words, error)
            held.folder.blocks.unlink(missing_ok=True)
            return 0

    def finished(self, held: Held) -> int:
        """Make what a killed POV-Ray left in the folder ready for +C; gives its finished pixels."""
        if held.lease.stage != "final":
            return 0
        try:
            if not held.folder.blocks.exists() or not may_go_on(held):
                return 0
            grid = _grid(held)
            return grid.area(keep_blocks([held.folder.blocks], held.folder.blocks, grid))
        except (OSError, NoStateFile) as error:
            log.warning("%s: the blocks finished so far are lost: %s", held.words, error)
            return 0

    def _restore(self, held: Held, origin: Origin) -> int:
        found = [
            (state, whole)
            for state, other in self._kept()
            if other.agrees(origin) and other.rect.intersection(origin.rect) is not None
            for whole in (origin.rect.contains(other.rect),)
        ]
        if not found or not may_go_on(held):
            return 0
        grid = _grid(held)
        blocks = keep_blocks([state for state, _ in found], held.folder.blocks, grid)
        for state, whole in found:
            # What another lease may still want a part of stays until its time is over.
            if whole:
                _remove(state)
        if blocks:
            log.info(
                "%s: %d of its %d blocks are kept from an earlier run",
                held.words,
                len(blocks),
                grid.count,
            )
        return grid.area(blocks)

    def _origin(self, held: Held) -> Origin:
        return Origin(
            scene=held.lease.scene.id,
            spec=held.spec.digest(),
            frame=held.lease.frame,
            povray=self._povray,
            light=" ".join(f"{light.kind}={light.sha256}" for light in held.lease.lights),
            boot=self._boot,
            rect=held.rect,
        )

    # ------------------------------------------------------------ the store

    def trim(self) -> None:
        """Remove what is too old or of no use any more, and the oldest beyond the bound."""
        try:
            with self._lock:
                self._trim(self._bound_bytes)
        except OSError as error:
            log.warning("blocks kept from before cannot be looked through: %s", error)

    def make_room(self) -> None:
        """Remove all of it: the disk is full."""
        with self._lock:
            self._trim(0)

    def _trim(self, bound_bytes: int) -> None:
        total = 0
        kept = [state for state, _origin in self._kept()]
        for state in sorted(kept, key=_kept_at, reverse=True):
            total += state.stat().st_size
            if total > bound_bytes or self._clock() - _kept_at(state) > self._bound_s:
                _remove(state)

    def expires_in_s(self) -> float | None:
        """Give the seconds until ``trim`` has something to do; None: nothing is kept."""
        try:
            with self._lock:
                times = [_kept_at(state) for state, _origin in self._kept()]
        except OSError:
            return _LEAST_WAIT_S
        return max(_LEAST_WAIT_S, min(times) + self._bound_s - self._clock()) if times else None

    def _kept(self) -> Iterator[tuple[Path, Origin]]:
        """Give each state file kept here with its origin; what cannot be used is removed."""
        for path in sorted(self._folder.glob("*.json")):
            state = path.with_suffix(STATE_SUFFIX)
            origin = read_origin(path)
            if origin is not None and self._usable(origin) and state.exists():
                yield state, origin
            else:
                _remove(state)

    def _usable(self, origin: Origin) -> bool:
        return origin.povray == self._povray and origin.boot == self._boot


def _grid(held: Held) -> BlockGrid:
    return BlockGrid(held.rect, held.spec.block_size)


def may_go_on(held: Held) -> bool:
    """Tell whether a second POV-Ray sees the light that the first one saw.

    It makes radiosity samples and photon maps anew and not the same, which would show as steps
    between its blocks and the kept ones; but not if they are shared and loaded.
    """
    loaded = {light.kind for light in held.lease.lights}
    root, spec = held.folder.scene, held.spec
    libraries = [root / path for path in spec.library_paths]
    texts = scene_texts(root, root / spec.start, root / spec.input, libraries)
    return wants_shared_light(texts) <= loaded


def _has_blocks(state: Path) -> bool:
    try:
        return next(read_blocks(state), None) is not None
    except NoStateFile:
        return False


def _kept_at(state: Path) -> float:
    """Give when a state file was kept, in seconds since the boot; 0 for a name that is not ours."""
    seconds = state.name.partition("-")[0]
    return float(seconds) if seconds.isdecimal() else 0.0


def _remove(state: Path) -> None:
    for path in (state.with_suffix(".json"), state):
        path.unlink(missing_ok=True)
