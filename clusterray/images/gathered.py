"""Where the rows of a picture that is still being made wait, whatever its format.

Those of a PNG are joined by copying (images.joined); all others lie on a canvas, from which the
file is written. Owned by one thread. Knows nothing of attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from clusterray.core.model import FileFormat, Rect
from clusterray.images.canvas import Canvas
from clusterray.images.formats import pixel_bytes, png_pixels, write_picture
from clusterray.images.joined import JoinedRows
from clusterray.images.measured import Written, measure
from clusterray.images.rows import Colour, Seen, Source, Strips, placed


class GatheredRows(Protocol):
    """The rows of a picture, as they come; every method raises OSError where a disk fails."""

    def take(self, tile: Source, part: Rect, place: Rect, seen: Seen) -> None:
        """Take a tile's pixels ``part`` as the pixels ``place``; ``seen`` is shown all its rows.

        Raises TileFault if the tile is damaged.
        """

    def put(self, place: Rect, rows: bytes) -> None:
        """Put rows in their place that no tile has."""

    def write(self, path: Path, colour: Colour, tick: Callable[[], None]) -> Written:
        """Write the picture, all rows of which are there; ``tick`` is called between portions.

        Raises TileGone if the file of a tile is not there any more, TileFault if the format has no
        room for the picture.
        """

    def close(self) -> None:
        """Give the disk space back; nothing can be taken or written any more."""


def gather(
    kind: FileFormat, size: tuple[int, int], folder: Path | None, threads: int
) -> GatheredRows:
    """Begin a picture of width and height ``size``, on the disk of ``folder``.

    What of it has to be packed is packed by ``threads``, where that takes time.
    """
    if kind.letter == "N":
        return JoinedRows(size, png_pixels(kind), folder, threads)
    return _CanvasRows(kind, size, folder)


class _CanvasRows:
    """All rows on one canvas, as bytes."""

    def __init__(self, kind: FileFormat, size: tuple[int, int], folder: Path | None) -> None:
        self._kind = kind
        self._size = size
        self._canvas = Canvas(*size, pixel_bytes(kind), folder)

    def take(self, tile: Source, part: Rect, place: Rect, seen: Seen) -> None:
        strips = tile.strips(part)
        for rect, strip in placed(strips, place, place.width * pixel_bytes(self._kind)):
            self._canvas.put(rect, strip)
            seen(rect, strip)

    def put(self, place: Rect, rows: bytes) -> None:
        self._canvas.put(place, rows)

    def write(self, path: Path, colour: Colour, tick: Callable[[], None]) -> Written:
        strips = _ticking(self._canvas.strips(), tick)
        write_picture(path, self._size, self._kind, colour, strips)
        return measure(path, tick)

    def close(self) -> None:
        self._canvas.close()


def _ticking(strips: Strips, tick: Callable[[], None]) -> Iterator[bytes]:
    for strip in strips:
        tick()
        yield strip
