"""One frame being put together from its tiles, and its picture file at the end.

Owned by one thread, the head's stitcher. Keeps the frame's rows in a file without a name and a
small preview in memory. Knows nothing of bands or attempts: it takes rectangles, and no pixel
twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from clusterray.core.bands import holes
from clusterray.core.model import FileFormat, Rect
from clusterray.images.canvas import Canvas
from clusterray.images.formats import (
    RESULT_KEYWORD,
    as_seen,
    colour_of_none,
    pixel_bytes,
    preview_colour,
    write_picture,
)
from clusterray.images.hatch import hatch_rows
from clusterray.images.preview import Preview
from clusterray.images.rows import Colour, TileFault
from clusterray.images.tile import cannot_write, open_tile

__all__ = ["RESULT_KEYWORD", "FrameWriter"]

_HATCH_ROWS = 64
"""Rows of a hole that are filled at a time."""


class FrameWriter:
    """Collects the tiles of one frame, in any order, and writes the picture of ``region``.

    Its rows wait on the disk of ``folder``, without one on that of the system's temporary files.
    """

    def __init__(self, region: Rect, kind: FileFormat, folder: Path | None = None) -> None:
        """Begin an empty frame; it takes room on the disk with its tiles."""
        self.region = region
        self._format = kind
        self._folder = folder
        self._canvas: Canvas | None = None
        self._colour: Colour = ()
        self._taken: list[Rect] = []
        self._preview = Preview(region.width, region.height)

    @property
    def covered(self) -> int:
        """Number of the region's pixels that are there."""
        return sum(rect.area for rect in self._taken)

    def add(self, path: Path, rect: Rect) -> None:
        """Take the tile of the whole picture's pixels ``rect``; what sticks out is cut off.

        Raises TileFault, and takes nothing, if the file is not such a tile, it says other things of
        its colours than the tiles before it, or some of its pixels are already there.
        """
        inside = self.region.intersection(rect)
        if inside is None:
            raise TileFault(f"the tile {rect.as_tuple()} lies outside {self.region.as_tuple()}")
        for other in self._taken:
            if other.intersection(inside) is not None:
                raise TileFault(f"the tile {rect.as_tuple()} overlaps {other.as_tuple()}")
        tile, place = open_tile(path, rect, self._format)
        if self._taken and tile.colour != self._colour:
            raise TileFault(f"the tile {rect.as_tuple()} has other colour chunks than the rest")
        x, y = place.x0 + inside.x0 - rect.x0, place.y0 + inside.y0 - rect.y0
        rows = tile.rows(Rect(x, y, x + inside.width, y + inside.height))
        self._place(rows, inside)
        self._colour = tile.colour

    def _place(self, rows: bytes, inside: Rect) -> None:
        place = self._put(rows, inside)
        self._taken.append(inside)
        self._preview.add(as_seen(rows, inside.width, self._format), place)

    def _put(self, rows: bytes, inside: Rect) -> Rect:
        region = self.region
        if self._canvas is None:
            step = pixel_bytes(self._format)
            self._canvas = Canvas(region.width, region.height, step, self._folder)
        x, y = inside.x0 - region.x0, inside.y0 - region.y0
        place = Rect(x, y, x + inside.width, y + inside.height)
        self._canvas.put(place, rows)
        return place

    def write_partial(self, target: Path, tick: Callable[[], None]) -> None:
        """Write what is there as a picture of its own format, what is missing hatched.

        ``tick`` is called between portions. Raises OSError, TileFault; what has been written by
        then stays. Tiles may still come afterwards.
        """
        for hole in holes(self.region, self._taken):
            for y in range(hole.y0, hole.y1, _HATCH_ROWS):
                rows = Rect(hole.x0, y, hole.x1, min(y + _HATCH_ROWS, hole.y1))
                self._put(hatch_rows(rows, self._format), rows)
                tick()
        assert self._canvas is not None, "no region is empty"
        size = (self.region.width, self.region.height)
        colour = self._colour if self._taken else colour_of_none(self._format)
        strips = _ticking(self._canvas.strips(), tick)
        write_picture(target, size, self._format, colour, strips)

    def finish(self, target: Path) -> None:
        """Write the picture; ``target`` appears whole, by rename, and is on the disk then.

        Raises TileFault if pixels are missing, LocalFault if ``target`` cannot be written; nothing
        half-written stays.
        """
        missing = self.region.area - self.covered
        if missing or self._canvas is None:
            raise TileFault(f"{missing} of {self.region.area} pixels are missing")
        partial = target.with_name(f"{target.name}.part")
        size = (self.region.width, self.region.height)
        try:
            write_picture(partial, size, self._format, self._colour, self._canvas.strips())
            _sync(partial, os.O_RDONLY)
            partial.replace(target)
            # The rename itself must survive a power cut, not only the file's bytes.
            _sync(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise cannot_write(target, error) from None

    def close(self) -> None:
        """Give the disk space of its rows back; only previews can be had any more."""
        if self._canvas is not None:
            self._canvas.close()

    def preview(self, max_side: int) -> bytes:
        """Give a PNG of what is there, at most ``max_side`` pixels wide and high, holes hatched."""
        return self._preview.png(max_side, preview_colour(self._colour, self._format))


def _ticking(strips: Iterable[bytes], tick: Callable[[], None]) -> Iterator[bytes]:
    for strip in strips:
        tick()
        yield strip


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
