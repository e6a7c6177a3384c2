"""Keeps the scenes that this node has fetched, by id, between attempts and between jobs.

The "render" threads share it: where both want a scene one fetches it. A scene is whole or not
there: its tar is unpacked under another name, its files are hashed and compared with the id, and it
appears by rename. Of a scene that differs from one that is here only in a few files, only those are
fetched (node.scene_parts).
How that gets here is the caller's ``download``; knows nothing of leases or FTP.

    <work>/scenes/boot          the boot in which these scenes were written
    <work>/scenes/<id>/         the files, read-only (root is not stopped by that)
    <work>/scenes/<id>.json     its manifest, which says what files are here already
    <work>/scenes/<id>.tar      while it is fetched; .new, while its manifest is
    <work>/scenes/<id>.part/    while it is unpacked
    <work>/scenes/<id>.<n>.gone/ while it is removed
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clusterray.node.folders import empty_folder, make_read_only, remove_tree
from clusterray.node.machine import boot_id
from clusterray.node.scene_parts import (
    MANIFEST_MOST_BYTES,
    Plan,
    end_tar,
    is_whole,
    make_plan,
    read_manifest,
    take_here,
    write_manifest,
)
from clusterray.node.turns import Turns, Waiting, patiently
from clusterray.wire.archive import unpack_tar
from clusterray.wire.manifest import scene_id
from clusterray.wire.protocol import Entry, SceneRef
from clusterray.wire.scene_names import ArchiveFault, ArchiveLimits
from clusterray.wire.tar_writer import BLOCK

log = logging.getLogger(__name__)

_SCENE_NAME = re.compile(r"[0-9a-f]{64}")
_FETCH_TRIES = 2

TAR_NAME = "scene.tar"
MANIFEST_NAME = "manifest.json"
LOOKED_THROUGH = 16
"""So many scenes, the last used ones, are looked through for files of a new one."""

Download = Callable[[str, Path, int], None]
"""Stores what the head has of the scene under that name in the new file; it has so many bytes."""


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
        self._fetches = Turns()
        # Guards all below, and what of the folder's names agrees with it; never held while files
        # are fetched or trees removed.
        self._lock = threading.Lock()
        self._removed = 0
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
            elif entry != stamp and not self._is_manifest(entry):
                entry.unlink()
        for _used_at, entry in sorted(found):
            self._scenes[entry.name] = _Cached(_tree_bytes(entry))

    def _is_manifest(self, file: Path) -> bool:
        return file.suffix == ".json" and (self._folder / file.stem).is_dir()

    def acquire(self, scene: SceneRef, download: Download, waiting: Waiting = patiently) -> Path:
        """Give the folder of ``scene``, fetched with ``download`` if need be, and hold it.

        Each call needs its ``release``. While another thread fetches it that is waited for, by
        ``waiting``. Raises SceneDamaged, OSError, and whatever ``download`` and ``waiting`` raise;
        then nothing is held and nothing is left behind.
        """
        if not self._hold(scene.id):
            with self._fetches.turn(scene.id, waiting):
                if not self._hold(scene.id):
                    self._hold_new(scene.id, self._fetch(scene, download))
        folder = self._folder / scene.id
        # In seconds since the boot, which no jump of the clock changes: scenes of another go.
        now = time.monotonic_ns()
        os.utime(folder, ns=(now, now))
        self._evict()
        return folder

    def _hold(self, scene: str) -> bool:
        """Hold a scene that is here; False if it is not."""
        with self._lock:
            cached = self._scenes.pop(scene, None)
            if cached is None:
                return False
            cached.users += 1
            self._scenes[scene] = cached
        return True

    def _hold_new(self, scene: str, size: int) -> None:
        with self._lock:
            self._scenes[scene] = _Cached(size, users=1)

    def release(self, scene: str) -> None:
        """Take back one ``acquire`` of this scene id."""
        with self._lock:
            self._scenes[scene].users -= 1
        self._evict()

    def make_room(self, enough: Callable[[], bool]) -> None:
        """Remove scenes that are not in use, until ``enough`` holds."""
        with self._lock:
            names = list(self._scenes)
        for name in names:
            if enough():
                return
            with self._lock:
                gone = self._take_out([name])
            _remove_all(gone)

    def _fetch(self, scene: SceneRef, download: Download) -> int:
        tar = self._folder / f"{scene.id}.tar"
        part = self._folder / f"{scene.id}.part"
        try:
            entries = self._fetch_lacking(scene, download, tar, part)
            if entries is None:
                entries = self._fetch_whole(scene, download, tar, part)
            write_manifest(self._manifest_of(scene.id), entries)
            make_read_only(part)
            part.rename(self._folder / scene.id)
            return _tree_bytes(self._folder / scene.id)
        finally:
            tar.unlink(missing_ok=True)
            remove_tree(part)

    def _fetch_whole(
        self, scene: SceneRef, download: Download, tar: Path, part: Path
    ) -> list[Entry]:
        for attempt in range(1, _FETCH_TRIES + 1):
            remove_tree(part)
            part.mkdir(mode=0o700)
            download(TAR_NAME, tar, scene.tar_bytes)
            entries = _unpack(scene.id, tar, part)
            if entries is not None and scene_id(entries) == scene.id:
                return entries
            tar.unlink()
            log.warning("scene %.12s arrived damaged (try %d)", scene.id, attempt)
        raise SceneDamaged(f"scene {scene.id[:12]} arrived damaged {_FETCH_TRIES} times")

    def _fetch_lacking(
        self, scene: SceneRef, download: Download, tar: Path, part: Path
    ) -> list[Entry] | None:
        """Make the scene in ``part`` of what is here and of what is lacking.

        None if it is better fetched whole, or if it did not come out as its id says.
        """
        plan = self._plan(scene, download)
        if plan is None:
            return None
        part.mkdir(mode=0o700)
        # Before anything is fetched: that may remove other scenes, to make room.
        with self._all_held():
            whole = take_here(plan, part)
        fetched: list[Entry] = []
        for fetch in plan.fetches if whole else ():
            download(fetch.name, tar, fetch.size)
            end_tar(tar)
            fetched += _unpack(scene.id, tar, part) or ()
            tar.unlink()
        if whole and is_whole(plan, fetched):
            log.info(
                "scene %.12s: %d of its %d files were here",
                *(scene.id, len(plan.here), len(plan.entries)),
            )
            return plan.entries
        log.warning("scene %.12s cannot be made of what is here; it is fetched whole", scene.id)
        return None

    def _plan(self, scene: SceneRef, download: Download) -> Plan | None:
        if not 0 < scene.manifest_bytes <= MANIFEST_MOST_BYTES:
            return None
        held = self._held_files()
        if not held:
            return None
        new = self._folder / f"{scene.id}.new"
        try:
            download(MANIFEST_NAME, new, scene.manifest_bytes)
            entries = read_manifest(new, scene.id)
        finally:
            new.unlink(missing_ok=True)
        return None if entries is None else make_plan(scene, TAR_NAME, entries, held)

    def _held_files(self) -> dict[str, Path]:
        """Give a place of each content that is here, by its sha256."""
        held: dict[str, Path] = {}
        with self._lock:
            names = list(self._scenes)[-LOOKED_THROUGH:]
        for name in names:
            for entry in read_manifest(self._manifest_of(name), name) or ():
                held[entry.sha256] = self._folder / name / entry.path
        return held

    @contextlib.contextmanager
    def _all_held(self) -> Iterator[None]:
        """Let no scene that is here be removed meanwhile."""
        with self._lock:
            names = list(self._scenes)
            for name in names:
                self._scenes[name].users += 1
        try:
            yield
        finally:
            with self._lock:
                for name in names:
                    self._scenes[name].users -= 1

    def _manifest_of(self, scene: str) -> Path:
        return self._folder / f"{scene}.json"

    def _evict(self) -> None:
        with self._lock:
            total = sum(cached.size for cached in self._scenes.values())
            names: list[str] = []
            for name, cached in self._scenes.items():
                if total > self._bound_bytes and not cached.users:
                    names.append(name)
                    total -= cached.size
            gone = self._take_out(names)
        _remove_all(gone)

    def _take_out(self, names: list[str]) -> list[Path]:
        """Take scenes that are not in use out; gives what is to be removed.

        Under another name first, for the half of it is no scene to adopt.
        """
        taken: list[Path] = []
        for name in names:
            cached = self._scenes.get(name)
            if cached is None or cached.users:
                continue
            log.info("scene %.12s is removed from the cache to make room", name)
            del self._scenes[name]
            self._removed += 1
            gone = self._folder / f"{name}.{self._removed}.gone"
            try:
                self._manifest_of(name).unlink(missing_ok=True)
                (self._folder / name).rename(gone)
                taken.append(gone)
            except OSError as error:
                log.warning("scene %.12s cannot be removed from the cache: %s", name, error)
        return taken


def _remove_all(folders: list[Path]) -> None:
    for folder in folders:
        try:
            remove_tree(folder)
        except OSError as error:
            log.warning("%s cannot be removed: %s", folder, error)


def _unpack(scene: str, tar: Path, part: Path) -> list[Entry] | None:
    """Unpack into ``part``; gives the files, None if it is no tar of ours."""
    # The head has checked the scene's size; here the tar's own size bounds what is in it.
    size = tar.stat().st_size
    try:
        return unpack_tar(tar, part, ArchiveLimits(size, size // BLOCK + 1))
    except ArchiveFault as fault:
        log.warning("scene %.12s cannot be unpacked: %s", scene, fault)
        return None


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
