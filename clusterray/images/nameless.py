"""A file without a name: gone with whoever holds it, whatever happens."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PIECE_BYTES: Final = 1 << 20


class NamelessFile:
    """A file on the disk of ``folder``, or where temporary files are; owned by one thread.

    Every method raises OSError where that disk fails.
    """

    def __init__(self, folder: Path | None) -> None:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            self._fd = os.dup(file.fileno())
        self._closing = weakref.finalize(self, os.close, self._fd)
        self.end = 0
        """Where what has been appended ends."""

    def append(self, data: bytes) -> None:
        """Put ``data`` behind what has been appended before."""
        self.write(data, self.end)
        self.end += len(data)

    def write(self, data: bytes, at: int) -> None:
        """Put ``data`` at byte ``at``."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._fd, view, at)
            view, at = view[count:], at + count

    def read(self, size: int, at: int) -> bytes:
        """Give ``size`` bytes from byte ``at`` on."""
        return b"".join(self.pieces(at, at + size))

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """Give the bytes ``start`` to ``end``, some at a time."""
        while start < end:
            piece = os.pread(self._fd, min(end - start, _PIECE_BYTES), start)
            if not piece:
                raise OSError(0, "a file of the picture's rows is too short")
            yield piece
            start += len(piece)

    def close(self) -> None:
        """Give the disk space back; nothing can be put in or taken out any more."""
        self._closing()
