"""Keeps the shared light that this node has fetched, by hash, for the bands that still come.

The "render" threads share it: where both want a file one fetches it. A file is whole or not there:
it is hashed before it gets its name. Empty at each start, for light belongs to one frame and is
soon over.

    <work>/light/<sha256>.light  the radiosity samples or the photon map of one frame
    <work>/light/<sha256>.part   while it is fetched
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

from clusterray.node.folders import empty_folder
from clusterray.node.turns import Turns, Waiting, patiently
from clusterray.wire.protocol import LightRef

KEPT = 8
"""So many files of light are kept, the last used ones: a frame has at most two."""
_FETCH_TRIES = 2


class LightDamaged(Exception):
    """Light arrived twice, and both times it was not what its hash says."""


class LightCache:
    """Files of light below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fetches = Turns()
        # Guards _kept, and what of the folder agrees with it; not held while anything is fetched.
        self._lock = threading.Lock()
        self._kept: list[str] = []  # last used at the end

    def open(self) -> None:
        """Make the folder, and remove what an earlier run kept."""
        empty_folder(self._folder)

    def get(
        self, light: LightRef, download: Callable[[Path], None], waiting: Waiting = patiently
    ) -> Path:
        """Give the file of ``light``, fetched with ``download`` if need be.

        It stays until ``KEPT`` others were asked for. While another thread fetches it that is
        waited for, by ``waiting``. Raises LightDamaged, OSError, and whatever ``download`` and
        ``waiting`` raise; then nothing is left behind.
        """
        path = self._folder / f"{light.sha256}.light"
        if not self._has(light.sha256):
            with self._fetches.turn(light.sha256, waiting):
                if not self._has(light.sha256):
                    self._fetch(light, path, download)
                    self._keep(light.sha256)
        return path

    def _has(self, name: str) -> bool:
        """Tell whether a file is here; it is the last used one then."""
        with self._lock:
            if name not in self._kept:
                return False
            self._kept.remove(name)
            self._kept.append(name)
        return True

    def _keep(self, name: str) -> None:
        with self._lock:
            self._kept.append(name)
            while len(self._kept) > KEPT:
                (self._folder / f"{self._kept.pop(0)}.light").unlink(missing_ok=True)

    def _fetch(self, light: LightRef, path: Path, download: Callable[[Path], None]) -> None:
        part = path.with_suffix(".part")
        try:
            for _ in range(_FETCH_TRIES):
                download(part)
                with part.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() == light.sha256:
                        part.rename(path)
                        return
            raise LightDamaged(f"the light {light.sha256[:12]} arrived damaged twice")
        finally:
            part.unlink(missing_ok=True)
