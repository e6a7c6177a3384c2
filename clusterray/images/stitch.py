"""One frame being put together from its tiles, and its picture file at the end.

Owned by one thread, the head's stitcher. Keeps the frame's pixels in memory (4 bytes each)
and a small preview beside them. Knows nothing of bands or attempts: it takes rectangles, and no
pixel twice.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from PIL import Image

from clusterray import __version__
from clusterray.core.model import Rect
from clusterray.images.png import (
    TileFault,
    as_seen,
    cannot_write,
    cut_out,
    decode_rows,
    pixel_format,
    write_png,
)
from clusterray.images.preview import Preview
from clusterray.images.tile import read_tile

RESULT_KEYWORD: Final = "ClusterRay"
"""Keyword of the text chunk that marks our results, before the pixel data."""

_LEVEL: Final = 4
"""zlib's: 4 % larger than level 6 on a busy picture, in under half the time; somebody waits."""


class FrameWriter:
    """Collects the tiles of one frame, in any order, and writes the picture of ``region``."""

    def __init__(self, region: Rect, grey: bool, alpha: bool) -> None:
        """Begin an empty frame; its pixels are taken into memory with the first tile."""
        self.region = region
        self._format = pixel_format(grey=grey, alpha=alpha)
        self._canvas: Image.Image | None = None
        self._colour: tuple[tuple[bytes, bytes], ...] = ()
        self._taken: list[Rect] = []
        self._preview = Preview(region.width, region.height)

    @property
    def covered(self) -> int:
        """Number of the region's pixels that are there."""
        return sum(rect.area for rect in self._taken)

    def add(self, path: Path, rect: Rect) -> None:
        """Take the tile of the whole picture's pixels ``rect``; what sticks out is cut off.

        Raises TileFault, and takes nothing, if the file is not such a tile, its colour chunks are
        not those of the tiles before it, or some of its pixels are already there.
        """
        inside = self.region.intersection(rect)
        if inside is None:
            raise TileFault(f"the tile {rect.as_tuple()} lies outside {self.region.as_tuple()}")
        for other in self._taken:
            if other.intersection(inside) is not None:
                raise TileFault(f"the tile {rect.as_tuple()} overlaps {other.as_tuple()}")
        png = read_tile(path, rect, grey=self._format.grey, alpha=self._format.alpha)
        if self._taken and png.colour != self._colour:
            raise TileFault(f"the tile {rect.as_tuple()} has other colour chunks than the rest")
        image = decode_rows(png, png.height)
        if inside != rect:
            x, y = inside.x0 - rect.x0, inside.y0 - rect.y0
            image = cut_out(image, x, y, inside.width, inside.height)
        self._colour = png.colour
        self._place(image, inside)

    def _place(self, image: Image.Image, inside: Rect) -> None:
        region = self.region
        if self._canvas is None:
            self._canvas = Image.new(self._format.carrier, (region.width, region.height))
        x, y = inside.x0 - region.x0, inside.y0 - region.y0
        self._canvas.paste(image, (x, y))
        self._taken.append(inside)
        seen = as_seen(image, self._format)
        self._preview.add(seen, Rect(x, y, x + inside.width, y + inside.height))

    def finish(self, target: Path) -> None:
        """Write the picture; ``target`` appears whole, by rename, and is on the disk then.

        Raises TileFault if pixels are missing, LocalFault if ``target`` cannot be written; nothing
        half-written stays.
        """
        missing = self.region.area - self.covered
        if missing or self._canvas is None:
            raise TileFault(f"{missing} of {self.region.area} pixels are missing")
        partial = target.with_name(f"{target.name}.part")
        try:
            with partial.open("wb") as file:
                marker = (RESULT_KEYWORD, __version__)
                write_png(file, self._canvas, self._format, self._colour, text=marker, level=_LEVEL)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
            _sync_folder(target.parent)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise cannot_write(target, error) from None

    def preview(self, max_side: int) -> bytes:
        """Give a PNG of what is there, at most ``max_side`` pixels wide and high, holes hatched."""
        return self._preview.png(max_side, self._colour)


def _sync_folder(folder: Path) -> None:
    # The rename itself must survive a power cut, not only the file's bytes.
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
