"""The "probe" thread: finds out beside the bands whether a frame depends on threads.

A probe is two small renders of the frame, one after the other (povray.probe). It must never delay
or fail a band: it begins when its band has shown that parsing is cheap, its POV-Ray yields to the
bands', and it is given up when memory runs short. It may outlive its band and run beside later
ones. Knows nothing of leases.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

from clusterray.core.errors import LocalFault
from clusterray.core.model import ProbeFound, Rect
from clusterray.images.compare import compare_tiles
from clusterray.images.tile import TileFault, crop_tile
from clusterray.node.beside import REASON_CHARACTERS, Beside, Task, Tell
from clusterray.node.folders import AttemptFolder
from clusterray.node.machine import memory_bytes, memory_left
from clusterray.node.renderer import Render, RenderCancelled, RenderFailed
from clusterray.node.sandbox import Sandbox
from clusterray.povray.probe import RUNS, ProbeRun, probe_of
from clusterray.povray.spec import RenderSpec
from clusterray.wire.protocol import Probed, ProbeView

log = logging.getLogger(__name__)

BEGIN_AFTER_S = 1.0
"""A probe begins when its band has computed for so many CPU seconds: bands that take less are not
worth one."""
PARSE_SHARE = 0.05
"""And when parsing the scene twice more is at most this part of what its band has computed."""
LIMIT_S = 3600.0
"""A probe costs about 2 % of its frame's pixels; one that takes so long is of no use to anybody."""
MEMORY_SHARE = 8
"""A probe is given up when less than this part of the node's memory is left."""
TOO_SHORT = "its bands are too short for a probe to be worth its cost"
TOO_MANY = "too many probes wait there already"


def is_due(parse_cpu_s: float, computed_s: float) -> bool:
    """Tell whether a band has shown that its probe is cheap; all in CPU seconds."""
    return computed_s >= BEGIN_AFTER_S and 2 * parse_cpu_s <= PARSE_SHARE * computed_s


class ProbeRender(Render):
    """One of the two renders, which yields to everybody else's."""

    _yields = True
    _spare = True

    def __init__(
        self,
        run: ProbeRun,
        povray: str,
        sandbox: Sandbox,
        spec: RenderSpec,
        rect: Rect,
        folder: AttemptFolder,
    ) -> None:
        super().__init__(
            povray=povray,
            sandbox=sandbox,
            threads=run.threads,
            spec=spec,
            rect=rect,
            folder=folder,
            on_progress=self._look,
        )
        self._words = run.words
        self._give_up_at = time.monotonic() + LIMIT_S
        self._least_left = memory_bytes() // MEMORY_SHARE
        self.given_up = ""

    def _name_blocks(self) -> None:
        """Nothing: what is small is not gone on from."""

    def _look(self, _phase: str, _done: int, _total: int) -> None:
        if self.given_up:
            return
        if memory_left() < self._least_left:
            self.given_up = "the node's memory ran short"
        elif time.monotonic() >= self._give_up_at:
            self.given_up = f"it took more than {LIMIT_S / 60:.0f} minutes"
        if self.given_up:
            self.cancel(at_once=True)


class Prober(Beside):
    """The probes of a node, one at a time, below ``folder``."""

    def __init__(self, povray: str, sandbox: Sandbox, folder: Path, tell: Tell) -> None:
        super().__init__(tell)
        self._povray = povray
        self._sandbox = sandbox
        self._folder = folder

    def _answer(self, task: Task) -> Probed:
        began_at = time.monotonic()
        try:
            found = self._probe(task)
        except _GivenUp as given_up:
            return self._nothing(task, str(given_up))
        except RenderFailed as failure:
            return self._nothing(task, failure.message)
        except RenderCancelled:
            return self._nothing(task, "it was broken off")
        except TileFault as fault:
            return self._nothing(task, f"POV-Ray left no whole picture: {fault}")
        except (OSError, LocalFault) as error:
            return self._nothing(task, f"this node cannot work on it: {error}")
        except Exception as error:  # a probe must not end the node
            log.exception("%s: its probe has a fault of ours", task.words)
            return self._nothing(task, f"a fault of ours: {error!r}")
        spent_s = time.monotonic() - began_at
        log.info(
            "%s: probed in %.1f s, %d of %d pixels differ",
            *(task.words, spent_s, found.differing, found.pixels),
        )
        view = ProbeView(found.pixels, found.differing, found.largest, found.levels)
        return Probed(task.attempt, view)

    def _nothing(self, task: Task, reason: str) -> Probed:
        log.info("%s: not probed: %s", task.words, reason)
        return Probed(task.attempt, None, reason[:REASON_CHARACTERS])

    def _probe(self, task: Task) -> ProbeFound:
        spec, rect = probe_of(task.spec)
        sandbox = self._sandbox.reading(task.scene)
        folders = [AttemptFolder(self._folder / f"{task.attempt}-{n}") for n in range(len(RUNS))]
        try:
            for run, folder in zip(RUNS, folders, strict=True):
                render = ProbeRender(run, self._povray, sandbox, spec, rect, folder)
                self._render_one(task, render, folder)
                crop_tile(folder.picture, rect, folder.tile, spec.file_format)
            one, other = (folder.tile for folder in folders)
            found = compare_tiles(one, other, rect, spec.file_format)
        finally:
            for folder in folders:
                with suppress(OSError):
                    folder.remove()
        return ProbeFound(found.pixels, found.differing, int(found.most), int(found.white))

    def _render_one(self, task: Task, render: ProbeRender, folder: AttemptFolder) -> None:
        try:
            self._run(task, render, folder)
        except RenderCancelled:
            if render.given_up:
                raise _GivenUp(render.given_up) from None
            raise


class _GivenUp(Exception):
    """A probe that costs more than it may; the words say what of."""
