"""The tile of a band whose blocks are all finished, made without a parse of its scene.

POV-Ray goes on from the blocks with a scene of nothing (povray.stub) in the place of the real one,
and has only to write its picture, which where possible is one of the band alone. That is how a cut
band gets its tile, and in a large picture every band: a POV-Ray that renders writes the file of the
whole frame, however small its band. Where it fails, for whatever reason, the band is as it was
before, so that its scene can be parsed after all. Called by the thread that renders the band.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clusterray.core.model import Rect
from clusterray.node.held import Held
from clusterray.node.holdings import Holdings
from clusterray.node.renderer import Render, RenderFailed, RenderTimes
from clusterray.node.salvage import may_go_on
from clusterray.node.sandbox import Sandbox
from clusterray.povray.state_file import NoStateFile, move_blocks
from clusterray.povray.stub import STUB_NAME, has_own_frame, scene_stub, stub_spec

log = logging.getLogger(__name__)

SPARED_PIXELS = 4_000_000
"""So many pixels that need not be written are worth the start of another POV-Ray: 0.3 s of CPU for
0.35 s of sleep (scripts/bench/cut_tile --rows)."""


class StubRender(Render):
    """A run of POV-Ray that renders nothing: all blocks are kept."""

    def _check_pixels(self) -> None:
        # They would be the stub's, which shows nothing.
        if self._parser.pixels or self._kept_pixels < self._rect.area:
            message = f"POV-Ray rendered {self._parser.pixels} pixels of a scene of nothing"
            raise RenderFailed("node", message, text=self._parser.text_tail)
        if not self._folder.picture.is_file():
            raise RenderFailed("node", "POV-Ray left no picture", text=self._parser.text_tail)


class StubTiles:
    """Makes tiles with this node's POV-Ray."""

    def __init__(self, povray: str, sandbox: Sandbox, threads: int, holdings: Holdings) -> None:
        self._povray = povray
        self._sandbox = sandbox
        self._threads = threads
        self._holdings = holdings

    def look(self, held: Held, scene: Path) -> None:
        """Find out how a band will get its tile, once for each.

        ``scene`` is the scene's own folder. What its texts tell is kept for all its bands.
        """
        if not held.looked:
            held.looked = True
            held.line.parses = scene_stub(scene, held.spec) is None
            held.line.by_blocks = not held.line.parses and _is_spared(held)

    def make(self, held: Held, scene: Path, kept_pixels: int) -> bool:
        """Make the picture of a band of which ``kept_pixels`` lie in its folder's blocks.

        Its line is closed. False: there is none, and its scene must be parsed; the blocks are there
        still, or gone if they may be spoilt. Raises RenderCancelled and Gone as a render does.
        """
        text = scene_stub(scene, held.spec) if kept_pixels == held.rect.area else None
        if text is None:
            return False
        own_frame = has_own_frame(held.spec)
        try:
            held.folder.keep_only_blocks()
            held.folder.scene.mkdir()
            (held.folder.scene / STUB_NAME).write_text(text, encoding="ascii")
            with _blocks_at_origin(held) if own_frame else _blocks_kept(held.folder.blocks):
                times = self._run(held, own_frame)
        except (RenderFailed, NoStateFile, OSError) as error:
            log.warning("%s: its scene is parsed once more for its tile: %s", held.words, error)
            return False
        held.own_frame = own_frame
        held.seconds.parse += times.parse_s
        held.seconds.render += times.render_s
        log.info("%s: its tile took no parse", held.words)
        return True

    def _run(self, held: Held, own_frame: bool) -> RenderTimes:
        rect, area = held.rect, held.rect.area
        size = (rect.width, rect.height) if own_frame else None
        render = StubRender(
            povray=self._povray,
            sandbox=self._sandbox,
            threads=self._threads,
            spec=stub_spec(held.spec, size),
            rect=rect if size is None else Rect(0, 0, *size),
            folder=held.folder,
            on_progress=lambda _phase, _done, _total: self._holdings.progress(
                held, "rendering", area, area, render.moves
            ),
            kept_pixels=area,
        )
        with self._holdings.abortable(held, lambda at_once: render.cancel(at_once=at_once)):
            return render.run()


def _is_spared(held: Held) -> bool:
    """Tell whether a band of this frame is better off with a tile made of its blocks alone.

    What POV-Ray says of light it says at its end only, and of lit bands that is wanted.
    """
    spec = held.spec
    spared = spec.width * spec.height - held.rect.area
    return spared >= SPARED_PIXELS and not spec.light and has_own_frame(spec) and may_go_on(held)


@contextmanager
def _blocks_kept(blocks: Path) -> Iterator[None]:
    """Remove the blocks after a failure that may have spoilt them.

    A POV-Ray that could not go on from them has begun them anew, with the stub's pixels.
    """
    before = _stamp(blocks)
    try:
        yield
    except BaseException:
        if _stamp(blocks) != before:
            blocks.unlink(missing_ok=True)
        raise


@contextmanager
def _blocks_at_origin(held: Held) -> Iterator[None]:
    """Have the blocks of a band lie as in a picture of the band alone; after a failure they are
    back where they were, or gone.

    Meanwhile nothing says whose they are, so that whoever finds them does not take them for others.
    """
    blocks, rect = held.folder.blocks, held.rect
    origin = held.folder.origin.read_bytes()
    held.folder.origin.unlink()
    try:
        _move(blocks, -rect.x0, -rect.y0)
        with _blocks_kept(blocks):
            yield
    except BaseException:
        _move(blocks, rect.x0, rect.y0)
        held.folder.origin.write_bytes(origin)
        raise


def _move(blocks: Path, right: int, down: int) -> None:
    """Move the blocks, if there are any, or remove them where that fails."""
    try:
        if blocks.exists():
            move_blocks(blocks, right, down)
    except (OSError, NoStateFile):
        blocks.unlink(missing_ok=True)
        raise


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
