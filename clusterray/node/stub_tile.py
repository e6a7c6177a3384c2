"""The tile of a cut band whose blocks are all finished, made without a parse of its scene.

POV-Ray goes on from the blocks with a scene of nothing (povray.stub) in the place of the real one,
and has only to write its picture. Where that fails, for whatever reason, the band is as it was
before, so that its scene can be parsed after all. Called by the thread that renders the band.
"""

from __future__ import annotations

import logging
from pathlib import Path

from clusterray.node.held import Held
from clusterray.node.holdings import Holdings
from clusterray.node.renderer import Render, RenderFailed, RenderTimes
from clusterray.node.sandbox import Sandbox
from clusterray.povray.stub import STUB_NAME, scene_stub, stub_spec

log = logging.getLogger(__name__)


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
        """Find out whether the tile of what a cut leaves of a band will take a parse.

        ``scene`` is the scene's own folder. What was found is kept for all its bands.
        """
        held.line.parses = scene_stub(scene, held.spec) is None

    def make(self, held: Held, scene: Path, kept_pixels: int) -> bool:
        """Make the picture of a band of which ``kept_pixels`` lie in its folder's blocks.

        Its line is closed. False: there is none, and its scene must be parsed; the blocks are there
        still, or gone if they may be spoilt. Raises RenderCancelled and Gone as a render does.
        """
        text = scene_stub(scene, held.spec) if kept_pixels == held.rect.area else None
        if text is None:
            return False
        blocks = held.folder.blocks
        before = _stamp(blocks)
        try:
            held.folder.keep_only_blocks()
            held.folder.scene.mkdir()
            (held.folder.scene / STUB_NAME).write_text(text, encoding="ascii")
            times = self._run(held, kept_pixels)
        except (RenderFailed, OSError) as error:
            log.warning("%s: its scene is parsed once more for its tile: %s", held.words, error)
            # A POV-Ray that could not go on from them has begun them anew, with the stub's pixels.
            if _stamp(blocks) != before:
                blocks.unlink(missing_ok=True)
            return False
        held.seconds.parse += times.parse_s
        held.seconds.render += times.render_s
        log.info("%s: its tile took no parse", held.words)
        return True

    def _run(self, held: Held, kept_pixels: int) -> RenderTimes:
        area = held.rect.area
        render = StubRender(
            povray=self._povray,
            sandbox=self._sandbox,
            threads=self._threads,
            spec=stub_spec(held.spec),
            rect=held.rect,
            folder=held.folder,
            on_progress=lambda _phase, _done, _total: self._holdings.progress(
                held, "rendering", area, area, render.moves
            ),
            kept_pixels=kept_pixels,
        )
        with self._holdings.abortable(held, lambda at_once: render.cancel(at_once=at_once)):
            return render.run()


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
