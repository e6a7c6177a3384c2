"""One frame being put together from its tiles, and its picture file at the end.

Owned by one thread, the head's stitcher. Keeps the frame's rows on the disk (images.gathered) and a
small preview in memory. Knows nothing of bands or attempts: it takes rectangles, and no pixel
twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from PIL import Image

from clusterray.core.bands import holes
from clusterray.core.model import FileFormat, Rect
from clusterray.images.cover import Cover
from clusterray.images.formats import RESULT_KEYWORD, as_seen, colour_of_none, preview_colour
from clusterray.images.gathered import GatheredRows, gather
from clusterray.images.hatch import hatch_rows
from clusterray.images.measured import Written
from clusterray.images.preview import Layer, Preview
from clusterray.images.rows import Colour, Source, TileFault, seeing_step
from clusterray.images.tile import cannot_write, open_tile

__all__ = ["RESULT_KEYWORD", "FrameWriter"]

_HATCH_ROWS = 64
"""Rows of a hole that are filled at a time."""
_PACKERS: Final = min(4, os.cpu_count() or 1)
"""Threads that pack what could not be copied, beside all else that a head does."""


class FrameWriter:
    """Collects the tiles of one frame, in any order, and writes the picture of ``region``.

    What waits of it does so in the files of the tiles, which must stay, and on the disk of
    ``folder``, without one on that of the system's temporary files.
    """

    def __init__(self, region: Rect, kind: FileFormat, folder: Path | None = None) -> None:
        """Begin an empty frame; it takes room on the disk with its tiles."""
        self.region = region
        self._format = kind
        self._folder = folder
        self._rows: GatheredRows | None = None
        self._colour: Colour = ()
        self._taken = Cover()
        self._preview = Preview(region.width, region.height)
        self._seeing_step = seeing_step(region.width, region.height)

    @property
    def covered(self) -> int:
        """Number of the region's pixels that are there."""
        return self._taken.area

    def add(self, path: Path, rect: Rect, opened: Source | None = None) -> None:
        """Take the tile of the whole picture's pixels ``rect``; what sticks out is cut off.

        It may be ``opened`` already.

        Raises TileFault, and takes nothing, if the file is not such a tile, it says other things of
        its colours than the tiles before it, or some of its pixels are already there.
        """
        inside = self.region.intersection(rect)
        if inside is None:
            raise TileFault(f"the tile {rect.as_tuple()} lies outside {self.region.as_tuple()}")
        other = self._taken.overlapped_by(inside)
        if other is not None:
            raise TileFault(f"the tile {rect.as_tuple()} overlaps {other.as_tuple()}")
        tile, place = open_tile(path, rect, self._format, opened=opened)
        if self._taken.rects and tile.colour != self._colour:
            raise TileFault(f"the tile {rect.as_tuple()} has other colour chunks than the rest")
        x, y = place.x0 - rect.x0, place.y0 - rect.y0
        part = _moved(inside, x, y)
        self._gathered().take(tile, part, self._in_region(inside), self._see)
        self._taken.add(inside)
        self._colour = tile.colour

    def _gathered(self) -> GatheredRows:
        if self._rows is None:
            size = (self.region.width, self.region.height)
            self._rows = gather(self._format, size, self._folder, _PACKERS)
        return self._rows

    def sketch(self, picture: Image.Image, rect: Rect | None, layer: Layer) -> None:
        """Have the preview show what the pixels ``rect``, None for the region, will be like.

        Only where nothing better is there; ``picture`` is RGB, or RGBA with holes.
        """
        inside = self.region if rect is None else self.region.intersection(rect)
        if inside is None:
            return
        if rect is not None and inside != rect:
            picture = _part(picture, rect, inside)
        self._preview.sketch(picture, self._in_region(inside), layer)

    def _in_region(self, rect: Rect) -> Rect:
        return _moved(rect, -self.region.x0, -self.region.y0)

    def _see(self, place: Rect, rows: bytes) -> None:
        seen = as_seen(rows, place.width, self._format, self._seeing_step)
        self._preview.add(seen, place)

    def write_partial(self, target: Path, tick: Callable[[], None]) -> Written:
        """Write what is there as a picture of its own format, what is missing hatched.

        ``tick`` is called between portions. Raises OSError, TileGone if the file of a tile is not
        there any more, TileFault; what has been written by then stays. Tiles may still come.
        """
        gathered = self._gathered()
        for hole in holes(self.region, self._taken.rects):
            for y in range(hole.y0, hole.y1, _HATCH_ROWS):
                rows = Rect(hole.x0, y, hole.x1, min(y + _HATCH_ROWS, hole.y1))
                gathered.put(self._in_region(rows), hatch_rows(rows, self._format))
                tick()
        colour = self._colour if self._taken.rects else colour_of_none(self._format)
        return gathered.write(target, colour, tick)

    def finish(self, target: Path) -> Written:
        """Write the picture; ``target`` appears whole, by rename, and is on the disk then.

        Raises TileFault if pixels are missing, TileGone if the file of a tile is, LocalFault if
        ``target`` cannot be written; nothing half-written stays.
        """
        missing = self.region.area - self.covered
        if missing or self._rows is None:
            raise TileFault(f"{missing} of {self.region.area} pixels are missing")
        partial = target.with_name(f"{target.name}.part")
        try:
            written = self._rows.write(partial, self._colour, lambda: None)
            _sync(partial, os.O_RDONLY)
            partial.replace(target)
            # The rename itself must survive a power cut, not only the file's bytes.
            _sync(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        except TileFault:
            _discard(partial)
            raise
        except OSError as error:
            _discard(partial)
            raise cannot_write(target, error) from None
        return written

    def close(self) -> None:
        """Give the disk space of its rows back; only previews can be had any more."""
        if self._rows is not None:
            self._rows.close()

    def preview(self, max_side: int) -> bytes:
        """Give a PNG of what is there, at most ``max_side`` pixels wide and high, holes hatched."""
        return self._preview.png(max_side, preview_colour(self._colour, self._format))


def _part(picture: Image.Image, rect: Rect, inside: Rect) -> Image.Image:
    """Cut what shows ``inside`` out of a small picture of ``rect``."""
    across, down = picture.width / rect.width, picture.height / rect.height
    x0, y0 = int((inside.x0 - rect.x0) * across), int((inside.y0 - rect.y0) * down)
    x1 = max(x0 + 1, round((inside.x1 - rect.x0) * across))
    y1 = max(y0 + 1, round((inside.y1 - rect.y0) * down))
    return picture.crop((x0, y0, x1, y1))


def _moved(rect: Rect, x: int, y: int) -> Rect:
    return Rect(rect.x0 + x, rect.y0 + y, rect.x1 + x, rect.y1 + y)


def _discard(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
