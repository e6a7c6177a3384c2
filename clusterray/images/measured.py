"""What is known of a file that has been written: its size and its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

_PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Written:
    """The size of a file in bytes, and its hex SHA-256."""

    size: int
    sha256: str


class Measured:
    """Writes a file and measures it meanwhile; every method raises OSError."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._size = 0
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Write all of ``data``."""
        self._digest.update(data)
        self._size += len(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    @property
    def written(self) -> Written:
        """What has been written so far."""
        return Written(self._size, self._digest.hexdigest())


def measure(path: Path, tick: Callable[[], None]) -> Written:
    """Read a file back; ``tick`` is called between portions. Raises OSError."""
    size, digest = 0, hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            size += len(piece)
            digest.update(piece)
            tick()
    return Written(size, digest.hexdigest())
