"""Small tiles that were checked and not stitched yet, so that nobody has to read them twice.

The keeper's thread puts them there before the farm hears of them, the stitcher's takes them. What
is not there is read from its file: no more than so many tiles and bytes are kept, and the oldest go
first.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Final

from clusterray.images.png_reader import PngFile

MOST_BYTES: Final = 16 << 20
MOST_TILES: Final = 2048


class CheckedTiles:
    """What is known of tiles, by the paths of their files."""

    def __init__(self) -> None:
        # One thread puts, another takes; either is one step of the interpreter.
        self._tiles: dict[Path, PngFile] = {}

        # The keeper's alone: what it put there, taken or not.
        self._put: deque[tuple[Path, int]] = deque()
        self._bytes = 0

    def put(self, path: Path, tile: PngFile) -> None:
        """Keep a checked tile that lies at ``path`` now."""
        if tile.proof is None:
            return
        size = len(tile.proof.stored)
        self._tiles[path] = tile.moved_to(path)
        self._put.append((path, size))
        self._bytes += size
        while self._bytes > MOST_BYTES or len(self._put) > MOST_TILES:
            oldest, size = self._put.popleft()
            self._tiles.pop(oldest, None)
            self._bytes -= size

    def take(self, path: Path) -> PngFile | None:
        """Give what is known of the tile at ``path``, once."""
        return self._tiles.pop(path, None)
