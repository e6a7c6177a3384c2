"""Where the content of a scene that is being assembled lies, and the pace at which it is written.

A part of ``scene_store``; one thread owns each of these. Knows no manifest and no index.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from clusterray.core.model import SceneId

TAR_NAME: Final = "scene.tar"
TICK_BYTES: Final = 4 << 20
"""``tick`` is called at least once for so many bytes."""
SYNC_BYTES: Final = 32 << 20
"""So many bytes are put on the disk at a time: one fsync of a large scene at its end could take
longer than a silent connection is allowed to live."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where content lies: in the tar of ``scene`` (None: in the upload) from ``offset`` on."""

    scene: SceneId | None
    offset: int
    size: int


class Sources:
    """The tars one assemble copies from, each opened once; one thread owns it.

    Open files outlive an eviction in the middle of the work.
    """

    def __init__(self, folder: Path, upload: Path | None) -> None:
        self._folder = folder
        self._upload = upload
        self._open: dict[SceneId | None, BinaryIO] = {}

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()

    def at(self, place: Place) -> BinaryIO:
        """Give the file that holds ``place``, at its first byte."""
        file = self._open.get(place.scene)
        if file is None:
            path = self._upload if place.scene is None else self._folder / place.scene / TAR_NAME
            assert path is not None, "a place in the upload comes from its index"
            file = self._open[place.scene] = path.open("rb")
        file.seek(place.offset)
        return file


class Pace:
    """Counts the bytes written to ``target``: ticks, and puts them on the disk in portions."""

    def __init__(self, target: Path, tick: Callable[[], None]) -> None:
        self._target = target
        self._tick = tick
        self._until_tick = TICK_BYTES
        self._until_sync = SYNC_BYTES

    def __call__(self, count: int) -> None:
        """Count the bytes just written."""
        self._until_tick -= count
        self._until_sync -= count
        if self._until_sync <= 0:
            self.sync()
            self._until_sync = SYNC_BYTES
        # Less than one chunk of the writer's goes past the mark.
        if self._until_tick <= 1 << 18:
            self._tick()
            self._until_tick = TICK_BYTES

    def sync(self) -> None:
        """Put on the disk what has been written so far."""
        with self._target.open("rb") as file:
            os.fsync(file.fileno())
