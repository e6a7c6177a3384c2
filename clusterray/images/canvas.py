"""The rows of a picture that is still being made, in a file without a name.

Only what is being put in or taken out is in memory, besides what the system keeps there of the file
while it has room. Owned by one thread. Knows no format, only bytes.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from clusterray.core.model import Rect

_STRIP_BYTES: Final = 4 << 20


class Canvas:
    """``height`` rows of ``width`` pixels, ``pixel_bytes`` each, on the disk of ``folder``.

    Every method raises OSError where that disk fails.
    """

    def __init__(self, width: int, height: int, pixel_bytes: int, folder: Path | None) -> None:
        self._pixel_bytes = pixel_bytes
        self._row_bytes = width * pixel_bytes
        self._height = height
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            self._fd = os.dup(file.fileno())
        self._closing = weakref.finalize(self, os.close, self._fd)

    def put(self, rect: Rect, rows: bytes) -> None:
        """Put the rows of ``rect`` in their place."""
        size = rect.width * self._pixel_bytes
        if size == self._row_bytes:
            self._write(rows, rect.y0 * self._row_bytes)
            return
        left = rect.x0 * self._pixel_bytes
        for number in range(rect.height):
            row = rows[number * size : (number + 1) * size]
            self._write(row, (rect.y0 + number) * self._row_bytes + left)

    def strips(self) -> Iterator[bytes]:
        """Give all rows from top to bottom, a few at a time."""
        rows = max(1, _STRIP_BYTES // self._row_bytes)
        for first in range(0, self._height, rows):
            size = min(rows, self._height - first) * self._row_bytes
            yield self._read(size, first * self._row_bytes)

    def close(self) -> None:
        """Give the disk space back; nothing can be put in or taken out any more."""
        self._closing()

    def _write(self, data: bytes, at: int) -> None:
        view = memoryview(data)
        while view:
            count = os.pwrite(self._fd, view, at)
            view, at = view[count:], at + count

    def _read(self, size: int, at: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = os.pread(self._fd, size, at)
            if not part:
                raise OSError(0, "the file of its rows is too short")
            parts.append(part)
            size, at = size - len(part), at + len(part)
        return b"".join(parts)
