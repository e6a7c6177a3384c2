"""The rows of a picture that is still being made, as bytes in a file without a name.

Only what is being put in or taken out is in memory, besides what the system keeps there of the file
while it has room. Owned by one thread. Knows no format, only bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clusterray.core.model import Rect
from clusterray.images.nameless import NamelessFile
from clusterray.images.rows import pieces


class Canvas:
    """``height`` rows of ``width`` pixels, ``pixel_bytes`` each, on the disk of ``folder``.

    Every method raises OSError where that disk fails.
    """

    def __init__(self, width: int, height: int, pixel_bytes: int, folder: Path | None) -> None:
        self._pixel_bytes = pixel_bytes
        self._row_bytes = width * pixel_bytes
        self._whole = Rect(0, 0, width, height)
        self._file = NamelessFile(folder)

    def put(self, rect: Rect, rows: bytes) -> None:
        """Put the rows of ``rect`` in their place."""
        size = rect.width * self._pixel_bytes
        if size == self._row_bytes:
            self._file.write(rows, rect.y0 * self._row_bytes)
            return
        left = rect.x0 * self._pixel_bytes
        for number in range(rect.height):
            row = rows[number * size : (number + 1) * size]
            self._file.write(row, (rect.y0 + number) * self._row_bytes + left)

    def strips(self, rect: Rect | None = None) -> Iterator[bytes]:
        """Give all rows, or those of ``rect``, from top to bottom, a few at a time.

        They are as wide as the canvas.
        """
        for piece in pieces(rect or self._whole, self._row_bytes):
            yield self._file.read(piece.height * self._row_bytes, piece.y0 * self._row_bytes)

    def close(self) -> None:
        """Give the disk space back; nothing can be put in or taken out any more."""
        self._file.close()
