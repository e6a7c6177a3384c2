"""The "scout" thread: a quick look at a whole frame, small, beside its first band.

A scout (povray.scout) renders the frame tiny and then, if that promises to be cheap, finer, with
one thread and the priority of bands, and tells each time what the head wants to show and to know:
the picture, what its parts cost, how long parsing took. A fault of the scene's text that it finds
is its band's fault too. It must cost a job next to nothing: it is given up at its budget, or when
memory runs short. Knows nothing of leases.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from PIL import Image

from clusterray.core.errors import LocalFault
from clusterray.core.model import Rect
from clusterray.images.glimpse import pack_glimpse
from clusterray.images.png_reader import read_png
from clusterray.images.rows import TileFault
from clusterray.node.beside import REASON_CHARACTERS, Beside, Task, Tell
from clusterray.node.folders import AttemptFolder
from clusterray.node.machine import fine_cpu_s, memory_bytes, memory_left
from clusterray.node.renderer import Render, RenderCancelled, RenderFailed
from clusterray.node.sandbox import Sandbox
from clusterray.povray.gamma import read_assumed_gamma
from clusterray.povray.scout import (
    BlockTimes,
    Glance,
    Seen,
    cost_grid,
    finer_scale,
    first_scale,
    glance_of,
    is_too_dear,
)
from clusterray.povray.spec import RenderSpec
from clusterray.povray.state_file import Block, NoStateFile, StateReader
from clusterray.wire.protocol import MAX_SCOUT_BYTES, Message, Scouted

log = logging.getLogger(__name__)

LOOK_S = 0.004
"""How often it is looked for finished blocks, so that the time of each can be told."""
WEIGH_S = 0.1
"""How often it is looked what a scout has cost."""
SHOW_FIRST_S, SHOW_MOST_S = 0.4, 30.0
"""A first picture that takes long is shown as far as it is after so long, and then each time after
twice as long, or that."""
LIMIT_S = 600.0
"""Longer than this no picture is waited for, on a machine with so much else to do."""
MEMORY_SHARE = 8
"""A scout is given up when less than this part of the node's memory is left."""
TOO_MANY_SCOUTS = "too many scouts wait there already"

SceneFault = Callable[[str, RenderFailed], bool]
"""Takes an attempt and a fault of its scene; True if the attempt was still to be rendered."""


class GlanceRender(Render):
    """One picture of a scout; ``show``, if given, takes what is there of it now and then."""

    _spare = True
    _tick_s = LOOK_S

    def __init__(
        self,
        glance: Glance,
        frame: RenderSpec,
        povray: str,
        sandbox: Sandbox,
        folder: AttemptFolder,
        show: Callable[[GlanceRender], None] | None,
    ) -> None:
        super().__init__(
            povray=povray,
            sandbox=sandbox,
            threads=1,
            spec=glance.spec,
            rect=glance.rect,
            folder=folder,
            on_progress=self._look,
        )
        self._frame = frame
        self._words = glance.words
        self._show = show
        self._reader = StateReader(folder.blocks)
        self._block_times = BlockTimes()
        self._began_at = time.monotonic()
        self._weigh_at = self._show_at = 0.0
        self._show_s = SHOW_FIRST_S
        self._spent_s = 0.0
        self.blocks: list[Block] = []
        self.given_up = ""

    @property
    def parse_s(self) -> float:
        """CPU seconds of parsing."""
        return self._parser.parse_cpu_s

    @property
    def seen(self) -> Seen:
        """What it cost so far."""
        return Seen(self._spent_s, self._block_times.traced_s, self._block_times.pixels)

    def costs(self) -> tuple[int, list[float]] | None:
        """Give what the cells of the picture cost, as ``cost_grid`` does."""
        return cost_grid((self._spec.width, self._spec.height), self._block_times.costs())

    def finish(self) -> None:
        """Take what POV-Ray left in its last moment."""
        self._take_blocks()

    def _look(self, _phase: str, _done: int, _total: int) -> None:
        now = time.monotonic()
        # By its own clock: on a busy machine time passes in which it does nothing.
        self._spent_s = max(self._spent_s, fine_cpu_s(self._pid))
        self._take_blocks()
        if now >= self._weigh_at and not self.given_up:
            self._weigh_at = now + WEIGH_S
            self.given_up = self._why_give_up(now)
            if self.given_up:
                self.cancel(at_once=True)
        if self._show is not None and self.blocks and now >= self._show_at:
            if self._show_at:
                self._show(self)
                self._show_s = min(2 * self._show_s, SHOW_MOST_S)
            self._show_at = now + self._show_s

    def _take_blocks(self) -> None:
        try:
            blocks = list(self._reader.new_blocks())
        except (OSError, NoStateFile):
            return
        begun = self._reader.read_bytes > 0
        self._block_times.note([block.rect for block in blocks], self._spent_s, begun=begun)
        self.blocks += blocks

    def _why_give_up(self, now: float) -> str:
        if is_too_dear(self._frame, self.seen):
            return "a look at it costs too much beside the whole"
        if now - self._began_at >= LIMIT_S:
            return f"a look at it took more than {LIMIT_S / 60:.0f} minutes"
        if memory_left() < memory_bytes() // MEMORY_SHARE:
            return "the node's memory ran short"
        return ""


class Scouter(Beside):
    """The scouts of a node, one at a time, below ``folder``."""

    def __init__(
        self,
        povray: str,
        sandbox: Sandbox,
        folder: Path,
        tell: Tell,
        scene_fault: SceneFault,
    ) -> None:
        super().__init__(tell)
        self._povray = povray
        self._sandbox = sandbox
        self._folder = folder
        self._scene_fault = scene_fault

    def _answer(self, task: Task) -> Message | None:
        """Tell each picture as it is done; the last word is said only if there is none."""
        told = False
        spent_s = 0.0
        scale: float | None = first_scale(task.spec)
        try:
            while scale is not None:
                render = self._glance(task, glance_of(task.spec, scale), first=not told)
                told = True
                spent_s += render.seen.spent_s
                log.info(
                    "%s: scouted at 1/%.0f of the size, %.2f CPU s",
                    *(task.words, 1 / scale, render.seen.spent_s),
                )
                scale = finer_scale(task.spec, spent_s, render.seen)
        except _GivenUp as given_up:
            return self._nothing(task, str(given_up), told)
        except RenderFailed as failure:
            placed = failure.fault == "scene" and failure.line > 0
            if placed and self._scene_fault(task.attempt, failure):
                return None
            return self._nothing(task, failure.message, told)
        except RenderCancelled:
            return self._nothing(task, "it was broken off", told)
        except TileFault as fault:
            return self._nothing(task, f"POV-Ray left no whole picture: {fault}", told)
        except (OSError, LocalFault) as error:
            return self._nothing(task, f"this node cannot work on it: {error}", told)
        except Exception as error:  # a scout must not end the node
            log.exception("%s: its scout has a fault of ours", task.words)
            return self._nothing(task, f"a fault of ours: {error!r}", told)
        return None

    def _nothing(self, task: Task, reason: str, told: bool) -> Message | None:
        log.info("%s: not scouted%s: %s", task.words, " any finer" if told else "", reason)
        return None if told else Scouted(task.attempt, reason=reason[:REASON_CHARACTERS])

    def _glance(self, task: Task, glance: Glance, *, first: bool) -> GlanceRender:
        """Render one picture and tell what was seen; gives the render, which is over."""
        folder = AttemptFolder(self._folder / task.attempt)

        def show(render: GlanceRender) -> None:
            picture = _picture_so_far(render.blocks, glance.rect, task)
            self._say(Scouted(task.attempt, picture, parse_s=render.parse_s))

        sandbox = self._sandbox.reading(task.scene)
        render = GlanceRender(
            glance, task.spec, self._povray, sandbox, folder, show if first else None
        )
        try:
            try:
                self._run(task, render, folder)
            except RenderCancelled:
                if render.given_up:
                    raise _GivenUp(render.given_up) from None
                raise
            render.finish()
            picture = _whole_picture(folder.picture, glance.rect, task)
        finally:
            with suppress(OSError):
                folder.remove()
        columns, costs = render.costs() or (0, [])
        self._say(Scouted(task.attempt, picture, columns, costs, render.parse_s))
        return render


def _whole_picture(path: Path, rect: Rect, task: Task) -> bytes:
    png = read_png(path)
    image = Image.frombytes(png.format.mode, (rect.width, rect.height), png.rows(rect))
    return _as_frame(image, task)


def _picture_so_far(blocks: list[Block], rect: Rect, task: Task) -> bytes:
    """Draw what is there, transparent elsewhere."""
    image = Image.new("RGBA", (rect.width, rect.height))
    gamma = read_assumed_gamma(task.scene / task.spec.input)
    for block in blocks:
        size = (block.rect.width, block.rect.height)
        part = Image.frombytes("RGB", size, block.rgb(gamma))
        image.paste(part, (block.rect.x0 - rect.x0, block.rect.y0 - rect.y0))
    return _as_frame(image, task)


def _as_frame(image: Image.Image, task: Task) -> bytes:
    """Give a picture as what people will see of the frame: grey if that is."""
    if task.spec.grey:
        grey = image.convert("L").convert("RGB")
        if image.mode == "RGBA":
            grey.putalpha(image.getchannel("A"))
        image = grey
    return pack_glimpse(image, MAX_SCOUT_BYTES)


class _GivenUp(Exception):
    """A scout that costs more than it may; the words say what of."""
