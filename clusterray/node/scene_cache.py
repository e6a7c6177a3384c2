"""Keeps the scenes that this node has fetched, by id, between attempts and between jobs.

The "render" thread owns it; no lock. A scene is whole or not there: its tar is unpacked under
another name, its files are hashed and compared with the id, and it appears by rename. How the
tar gets here is the caller's ``download``; knows nothing of leases or FTP.

    <work>/scenes/boot          the boot in which these scenes were written
    <work>/scenes/<id>/         the files, read-only (root is not stopped by that)
    <work>/scenes/<id>.tar      while it is fetched
    <work>/scenes/<id>.part/    while it is unpacked
    <work>/scenes/<id>.gone/    while it is removed
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clusterray.node.folders import empty_folder, make_read_only, remove_tree
from clusterray.node.machine import boot_id
from clusterray.wire.archive import unpack_tar
from clusterray.wire.manifest import scene_id
from clusterray.wire.protocol import SceneRef
from clusterray.wire.scene_names import ArchiveFault, ArchiveLimits

log = logging.getLogger(__name__)

TAR_BLOCK = 512
"""A tar has at least one header block of this size for each file."""
_SCENE_NAME = re.compile(r"[0-9a-f]{64}")
_FETCH_TRIES = 2

Download = Callable[[Path], None]
"""Stores the scene's tar in the file it is given."""


class SceneDamaged(Exception):
    """A scene arrived twice, and both times it was not what its id says."""


@dataclass(slots=True)
class _Cached:
    size: int
    users: int = 0


class SceneCache:
    """Scenes below ``folder``, at most ``bound_bytes`` of them beyond those in use.

    The least recently used go first; one in use never goes.
    """

    def __init__(self, folder: Path, bound_bytes: int) -> None:
        self._folder = folder
        self._bound_bytes = bound_bytes
        self._scenes: dict[str, _Cached] = {}  # least recently used first

    def open(self) -> None:
        """Adopt the scenes of earlier runs and remove what a stopped fetch left behind.

        After a reboot all scenes go: they were renamed into place but not flushed, so that a
        power failure may have left files of zeros.
        """
        boot = boot_id()
        stamp = self._folder / "boot"
        if not stamp.is_file() or stamp.read_text(encoding="ascii", errors="replace") != boot:
            empty_folder(self._folder)
            stamp.write_text(boot, encoding="ascii")
        found: list[tuple[float, Path]] = []
        for entry in self._folder.iterdir():
            if entry.is_dir() and _SCENE_NAME.fullmatch(entry.name):
                found.append((entry.stat().st_mtime, entry))
            elif entry.is_dir():
                remove_tree(entry)
            elif entry != stamp:
                entry.unlink()
        for _used_at, entry in sorted(found):
            self._scenes[entry.name] = _Cached(_tree_bytes(entry))

    def acquire(self, scene: SceneRef, download: Download) -> Path:
        """Give the folder of ``scene``, fetched with ``download`` if need be, and hold it.

        Each call needs its ``release``. Raises SceneDamaged, OSError, and whatever ``download``
        raises; then nothing is held and nothing is left behind.
        """
        if scene.id not in self._scenes:
            self._scenes[scene.id] = _Cached(self._fetch(scene, download))
        cached = self._scenes.pop(scene.id)
        cached.users += 1
        self._scenes[scene.id] = cached
        folder = self._folder / scene.id
        # In seconds since the boot, which no jump of the clock changes: scenes of another go.
        now = time.monotonic_ns()
        os.utime(folder, ns=(now, now))
        self._evict()
        return folder

    def release(self, scene: str) -> None:
        """Take back one ``acquire`` of this scene id."""
        self._scenes[scene].users -= 1
        self._evict()

    def make_room(self, enough: Callable[[], bool]) -> None:
        """Remove scenes that are not in use, until ``enough`` holds."""
        for name, cached in list(self._scenes.items()):
            if enough():
                return
            if not cached.users:
                self._remove(name)

    def _fetch(self, scene: SceneRef, download: Download) -> int:
        tar = self._folder / f"{scene.id}.tar"
        part = self._folder / f"{scene.id}.part"
        try:
            for attempt in range(1, _FETCH_TRIES + 1):
                download(tar)
                if self._unpack(scene, tar, part):
                    part.rename(self._folder / scene.id)
                    return _tree_bytes(self._folder / scene.id)
                tar.unlink()
                log.warning("scene %.12s arrived damaged (try %d)", scene.id, attempt)
            raise SceneDamaged(f"scene {scene.id[:12]} arrived damaged {_FETCH_TRIES} times")
        finally:
            tar.unlink(missing_ok=True)
            remove_tree(part)

    def _unpack(self, scene: SceneRef, tar: Path, part: Path) -> bool:
        """Unpack into ``part``, read-only; False if it is not the scene that its id names."""
        # The head has checked the scene's size; here the tar's own size bounds what is in it.
        limits = ArchiveLimits(
            max_bytes=scene.tar_bytes, max_files=scene.tar_bytes // TAR_BLOCK + 1
        )
        remove_tree(part)
        part.mkdir(mode=0o700)
        try:
            entries = unpack_tar(tar, part, limits)
        except ArchiveFault as fault:
            log.warning("scene %.12s cannot be unpacked: %s", scene.id, fault)
            return False
        if scene_id(entries) != scene.id:
            return False
        make_read_only(part)
        return True

    def _evict(self) -> None:
        total = sum(cached.size for cached in self._scenes.values())
        for name, cached in list(self._scenes.items()):
            if total <= self._bound_bytes:
                return
            if cached.users:
                continue
            self._remove(name)
            total -= cached.size

    def _remove(self, name: str) -> None:
        """Remove a scene; under another name first, for the half of it is no scene to adopt."""
        log.info("scene %.12s is removed from the cache to make room", name)
        del self._scenes[name]
        gone = self._folder / f"{name}.gone"
        try:
            (self._folder / name).rename(gone)
            remove_tree(gone)
        except OSError as error:
            log.warning("scene %.12s cannot be removed from the cache: %s", name, error)


def link_tree(scene: Path, folder: Path) -> None:
    """Make ``folder`` a copy of ``scene`` in which folders are real and files are links.

    ``folder`` must not exist; it is writable, and what POV-Ray writes beside the scene's files
    stays in it. OSError if it cannot be made.
    """
    folder.mkdir(mode=0o700)
    with os.scandir(scene) as entries:
        for entry in entries:
            target = folder / entry.name
            if entry.is_dir(follow_symlinks=False):
                link_tree(Path(entry.path), target)
            else:
                target.symlink_to(Path(entry.path).absolute())


def _tree_bytes(folder: Path) -> int:
    return sum(
        Path(base, name).lstat().st_size
        for base, _folders, files in os.walk(folder)
        for name in files
    )
