"""The "probe" thread: finds out beside the bands whether a frame depends on threads.

A probe is two small renders of the frame, one after the other (povray.probe). It must never delay
or fail a band: it begins when its band has shown that parsing is cheap, its POV-Ray yields to the
bands', and it is given up when memory runs short. It may outlive its band and run beside later
ones. "render" adds probes and lets go of their scenes, "main" has them dropped. Knows nothing of
leases.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clusterray.core.errors import LocalFault
from clusterray.core.model import ProbeFound, Rect
from clusterray.images.compare import compare_tiles
from clusterray.images.tile import TileFault, crop_tile
from clusterray.node.folders import AttemptFolder
from clusterray.node.machine import memory_bytes, memory_left
from clusterray.node.renderer import Render, RenderCancelled, RenderFailed
from clusterray.node.sandbox import Sandbox
from clusterray.node.scene_cache import link_tree
from clusterray.povray.command import render_argv
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
MOST_WAITING = 4
"""So many wait for the one at work."""
TOO_SHORT = "its bands are too short for a probe to be worth its cost"
TOO_MANY = "too many probes wait there already"
_REASON_CHARACTERS = 300

Tell = Callable[[Probed], None]
"""Gives the answer to the head, once a connection stands."""


@dataclass(frozen=True, slots=True)
class Task:
    """One probe: the attempt it was asked for with, and the scene, which is held for it."""

    attempt: str
    words: str
    spec: RenderSpec
    scene_id: str
    scene: Path


def is_due(parse_cpu_s: float, computed_s: float) -> bool:
    """Tell whether a band has shown that its probe is cheap; all in CPU seconds."""
    return computed_s >= BEGIN_AFTER_S and 2 * parse_cpu_s <= PARSE_SHARE * computed_s


class ProbeRender(Render):
    """One of the two renders, which yields to everybody else's."""

    _yields = True

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

    def _povray_argv(self) -> list[str]:
        argv = render_argv(
            self._spec,
            self._rect,
            threads=self._threads,
            povray=self._povray,
            output=self._folder.picture,
        )
        return [*argv, *self._words]

    def _look(self, _phase: str, _done: int, _total: int) -> None:
        if self.given_up:
            return
        if memory_left() < self._least_left:
            self.given_up = "the node's memory ran short"
        elif time.monotonic() >= self._give_up_at:
            self.given_up = f"it took more than {LIMIT_S / 60:.0f} minutes"
        if self.given_up:
            self.cancel(at_once=True)


class Prober:
    """The probes of a node, one at a time, below ``folder``."""

    def __init__(self, povray: str, sandbox: Sandbox, folder: Path, tell: Tell) -> None:
        self._povray = povray
        self._sandbox = sandbox
        self._folder = folder
        self._tell = tell
        # Guards every field below; notified when a task comes or the node stops.
        self._changed = threading.Condition()
        self._waiting: deque[Task] = deque()
        self._current: Task | None = None
        self._render: Render | None = None
        self._broken_off = False
        self._spent: list[str] = []
        self._stopped = False

    # ------------------------------------------------------------ called by "render"

    def add(self, task: Task) -> None:
        """Take a probe, whose scene the caller holds until ``spent`` names it."""
        with self._changed:
            self._waiting.append(task)
            self._changed.notify_all()

    @property
    def full(self) -> bool:
        """Tell whether so many wait that no further one should be added."""
        with self._changed:
            return len(self._waiting) >= MOST_WAITING

    def spent(self) -> list[str]:
        """Give, once, the scenes of the probes that are over: each is held one time less."""
        with self._changed:
            spent, self._spent = self._spent, []
        return spent

    # ------------------------------------------------------------ called by any thread

    def drop(self, attempt: str) -> None:
        """Nobody wants to know any more: break the probe off, and tell nothing."""
        with self._changed:
            for task in [each for each in self._waiting if each.attempt == attempt]:
                self._waiting.remove(task)
                self._spent.append(task.scene_id)
            if self._current is not None and self._current.attempt == attempt:
                self._break_off()

    def stop(self) -> None:
        """Break off what is at work; the thread finds nothing more to do."""
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._break_off()
            self._changed.notify_all()

    def _break_off(self) -> None:
        self._broken_off = True
        if self._render is not None:
            self._render.cancel(at_once=True)

    # ------------------------------------------------------------ the "probe" thread

    def run(self) -> None:
        """Work until the node stops."""
        while (task := self._next()) is not None:
            answer = self._answer(task)
            with self._changed:
                self._current = None
                self._spent.append(task.scene_id)
                silent = self._broken_off
            if not silent:
                self._tell(answer)

    def _next(self) -> Task | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or bool(self._waiting))
            if self._stopped:
                return None
            self._current, self._broken_off = self._waiting.popleft(), False
            return self._current

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
        return Probed(task.attempt, None, reason[:_REASON_CHARACTERS])

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
        with self._changed:
            self._render = render
            if self._broken_off:
                raise RenderCancelled
        try:
            folder.create()
            link_tree(task.scene, folder.scene)
            render.run()
        except RenderCancelled:
            if render.given_up:
                raise _GivenUp(render.given_up) from None
            raise
        finally:
            with self._changed:
                self._render = None


class _GivenUp(Exception):
    """A probe that costs more than it may; the words say what of."""
