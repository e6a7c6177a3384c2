"""Scenes on the head's disk: which there are, what a client still has to send, what must go.

``folder/<scene id>/`` holds ``manifest.json`` and ``scene.tar``, the one uncompressed tar that
every node fetches; ``folder/uploads/`` what clients are sending. A scene appears by rename, whole
and verified, or not at all. Content that a stored scene has is copied from there, not sent again.

Called by connection threads, several at once. Must not know of jobs or leases: ``evict`` is told
which scenes are in use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from clusterray.core.errors import ClusterRayError, LocalFault, SceneFault
from clusterray.core.model import SceneId
from clusterray.head.durable import sync
from clusterray.head.scene_sources import TAR_NAME, Pace, Place, Sources
from clusterray.wire.archive import index_tar
from clusterray.wire.manifest import canonical_manifest, decode_manifest, scene_id
from clusterray.wire.protocol import Entry, SceneRef
from clusterray.wire.scene_names import ArchiveLimits
from clusterray.wire.tar_writer import TarWriter

MANIFEST_NAME: Final = "manifest.json"

_TOLD_EVERY_S: Final = 60.0
"""A scene that is used again and again is marked on the disk no more often."""
_PARTIAL: Final = ".part-"
_UPLOADS: Final = "uploads"


@dataclass(frozen=True, slots=True)
class _Stored:
    """One scene that is whole on the disk; ``places`` by the content's sha256."""

    tar_bytes: int
    manifest_bytes: int
    places: dict[str, Place]


class SceneStore:
    """Scenes on disk: ``folder/<id>/{manifest.json,scene.tar}``.

    ``limits`` is what one scene may hold, ``max_bytes`` what ``evict`` shrinks all tars to.
    Opening it finds the whole scenes of an earlier run and deletes what is broken or half made.
    Raises LocalFault if the folder cannot be used.
    """

    def __init__(self, folder: Path, limits: ArchiveLimits, max_bytes: int) -> None:
        self._folder = folder
        self._uploads = folder / _UPLOADS
        self._limits = limits
        self._max_bytes = max_bytes
        # Guards _scenes, whose order is that of use, least recently used first, and _told_at, when
        # one was marked as used last. Never held while a tar is read or written.
        self._lock = threading.Lock()
        self._told_at = -math.inf
        self._scenes: dict[SceneId, _Stored] = {}
        self._open()

    # ------------------------------------------------------------ questions

    def has(self, scene: SceneId) -> bool:
        """Tell whether the scene is stored whole; counts as a use of it."""
        return self._use(scene) is not None

    def missing(self, entries: Sequence[Entry]) -> list[int]:
        """Give the indices of entries whose content no stored scene has, each content once.

        Counts as a use of the scenes that have the others, so that they are still there when the
        scene is assembled.
        """
        lacking: list[int] = []
        seen: set[str] = set()
        sources: set[SceneId] = set()
        for index, entry in enumerate(entries):
            if entry.sha256 in seen:
                continue
            seen.add(entry.sha256)
            place = self._find(entry)
            if place is None:
                lacking.append(index)
            elif place.scene is not None:
                sources.add(place.scene)
        for scene in sources:
            self._use(scene)
        return lacking

    def tar_path(self, scene: SceneId) -> Path:
        """Give the scene's tar; counts as a use. Raises SceneFault if it is not stored."""
        self._known(scene)
        return _files_of(self._folder, scene)[0]

    def manifest_path(self, scene: SceneId) -> Path:
        """Give the scene's manifest, for who has its tar; it may be gone."""
        return _files_of(self._folder, scene)[1]

    def reference(self, scene: SceneId) -> SceneRef:
        """Give what a node is told of the scene; counts as a use.

        Raises SceneFault if it is not stored.
        """
        stored = self._known(scene)
        return SceneRef(scene, stored.tar_bytes, stored.manifest_bytes)

    # ------------------------------------------------------------ taking a scene in

    def begin_upload(self, scene: SceneId) -> Path:
        """Give a path where an upload of missing files may land; a new one each time."""
        return self._uploads / f"{scene}.{secrets.token_hex(8)}"

    def discard_upload(self, upload: Path) -> None:
        """Delete an upload that nobody will assemble; it need not exist."""
        with contextlib.suppress(OSError):
            upload.unlink(missing_ok=True)

    def assemble(
        self,
        scene: SceneId,
        entries: Sequence[Entry],
        upload: Path | None,
        tick: Callable[[], None],
    ) -> None:
        """Make a stored scene of its manifest, what is stored already and ``upload``.

        Every byte is hashed on its way. ``upload`` is a tar of the entries ``missing`` named; it is
        deleted whatever happens. ``tick`` is called at least each TICK_BYTES, and what it raises
        ends the work. A scene that is stored by then, also by another thread, is left as it is.
        Raises SceneFault if manifest, id and upload do not fit each other, LocalFault if the disk
        fails.
        """
        try:
            self._assemble(scene, entries, upload, tick)
        finally:
            if upload is not None:
                self.discard_upload(upload)

    def _assemble(
        self,
        scene: SceneId,
        entries: Sequence[Entry],
        upload: Path | None,
        tick: Callable[[], None],
    ) -> None:
        if scene_id(entries) != scene:
            raise SceneFault("the scene's manifest does not fit its id; submit it again")
        if self.has(scene):
            return
        _check_limits(entries, self._limits)
        uploaded = self._index_upload(entries, upload)
        part = self._folder / f"{_PARTIAL}{secrets.token_hex(8)}"
        try:
            part.mkdir()
            self._write_tar(part / TAR_NAME, entries, uploaded, upload, tick)
            # Read back by the strict reader: it also refuses names that no upload was checked for,
            # since their content was here already.
            stored = _index_stored(scene, entries, part / TAR_NAME, self._limits)
            _write_manifest(part / MANIFEST_NAME, entries)
            sync(part)
            self._publish(scene, part)
        except OSError as error:
            raise self._cannot_store(str(error.strerror)) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        with self._lock:
            self._scenes.pop(scene, None)
            self._scenes[scene] = stored

    def _cannot_store(self, reason: str) -> LocalFault:
        return LocalFault(
            f"cannot store a scene in {self._folder}: {reason}; "
            "free some space there or make it writable, and submit again"
        )

    def _index_upload(self, entries: Sequence[Entry], upload: Path | None) -> dict[str, Place]:
        if upload is None:
            return {}
        if not upload.is_file():
            raise SceneFault("the scene's files have not arrived at the head; submit it again")
        by_path = {entry.path: entry for entry in entries}
        places: dict[str, Place] = {}
        for member in index_tar(upload, self._limits):
            entry = by_path.get(member.path)
            if entry is None or entry.size != member.size:
                raise SceneFault(
                    "sent as the manifest does not have it; submit the scene again",
                    file=member.path,
                )
            places[entry.sha256] = Place(None, member.offset, member.size)
        return places

    def _write_tar(
        self,
        target: Path,
        entries: Sequence[Entry],
        uploaded: dict[str, Place],
        upload: Path | None,
        tick: Callable[[], None],
    ) -> None:
        with TarWriter(target) as tar, Sources(self._folder, upload) as sources:
            on_bytes = Pace(target, tick)
            for entry in sorted(entries, key=lambda entry: entry.path):
                place = uploaded.get(entry.sha256) or self._find(entry)
                if place is None:
                    raise _gone(entry)
                try:
                    tar.add(entry, sources.at(place), on_bytes)
                except FileNotFoundError:
                    raise _gone(entry) from None
                except SceneFault as fault:
                    raise self._bad_content(entry, place) from fault
                except LocalFault as fault:
                    raise self._cannot_store(fault.message) from fault
            tar.finish()
            on_bytes.sync()

    def _bad_content(self, entry: Entry, place: Place) -> ClusterRayError:
        if place.scene is None:
            return SceneFault("arrived damaged; submit the scene again", file=entry.path)
        # Ours, not the client's: whoever asks next is to send the content of that scene again.
        with self._lock:
            self._scenes.pop(place.scene, None)
        self._delete(place.scene)
        return LocalFault(
            f"the stored scene {self._folder / place.scene} was damaged and has been removed; "
            "submit once more, and check the head's disk"
        )

    def _publish(self, scene: SceneId, part: Path) -> None:
        try:
            part.rename(self._folder / scene)
        except OSError:
            # Another thread had the same scene ready first; its bytes are the same.
            if self._load(scene) is None:
                raise
        sync(self._folder)

    # ------------------------------------------------------------ room

    def evict(self, in_use: Set[SceneId]) -> None:
        """Remove least recently used scenes until the tars fit; never one of ``in_use``.

        Who is reading a removed tar can read it to its end.
        """
        for scene in self._pick_victims(in_use):
            self._delete(scene)

    def total_bytes(self, among: Set[SceneId] | None = None) -> int:
        """Give the bytes of all stored tars, or of those ``among`` which are stored."""
        with self._lock:
            known = self._scenes if among is None else self._scenes.keys() & among
            return sum(self._scenes[scene].tar_bytes for scene in known)

    def oldest(self, in_use: Set[SceneId]) -> tuple[SceneId, float] | None:
        """Give the least recently used scene that is not ``in_use``, and the wall time of its use.

        None if there is none.
        """
        with self._lock:
            scene = next((scene for scene in self._scenes if scene not in in_use), None)
        if scene is None:
            return None
        try:
            return scene, (self._folder / scene).stat().st_mtime
        except OSError:
            return scene, 0.0

    def remove(self, scene: SceneId) -> None:
        """Remove a scene; who is reading its tar can read it to its end."""
        with self._lock:
            self._scenes.pop(scene, None)
        self._delete(scene)

    def _pick_victims(self, in_use: Set[SceneId]) -> list[SceneId]:
        victims: list[SceneId] = []
        with self._lock:
            total = sum(stored.tar_bytes for stored in self._scenes.values())
            for scene in list(self._scenes):
                if total <= self._max_bytes:
                    break
                if scene not in in_use:
                    total -= self._scenes.pop(scene).tar_bytes
                    victims.append(scene)
        return victims

    def _delete(self, name: str) -> None:
        # Renamed first: a folder that is half deleted must not look like a scene.
        gone = self._folder / f"{_PARTIAL}{secrets.token_hex(8)}"
        with contextlib.suppress(OSError):
            (self._folder / name).rename(gone)
            if not gone.is_dir() or gone.is_symlink():
                gone.unlink()
        shutil.rmtree(gone, ignore_errors=True)

    # ------------------------------------------------------------ index

    def _open(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.rmtree(self._uploads, ignore_errors=True)
            self._uploads.mkdir(mode=0o700)
            folders = sorted(self._folder.iterdir(), key=lambda path: path.lstat().st_mtime)
        except OSError as error:
            raise LocalFault(
                f"cannot keep scenes in {self._folder}: {error.strerror}; make it a folder "
                "that the head may write to"
            ) from error
        for path in folders:
            if path.name == _UPLOADS:
                continue
            scene = SceneId(path.name)
            stored = self._load(scene)
            if stored is None:
                self._delete(path.name)
            else:
                self._scenes[scene] = stored

    def _load(self, scene: SceneId) -> _Stored | None:
        """Read a scene's folder; None if it is not one, or broken."""
        folder = self._folder / scene
        try:
            entries = decode_manifest((folder / MANIFEST_NAME).read_bytes())
            # Limits that were lowered since must not take scenes from jobs that run.
            limits = dataclasses.replace(
                self._limits,
                max_bytes=max(self._limits.max_bytes, sum(entry.size for entry in entries)),
                max_files=max(self._limits.max_files, len(entries)),
            )
            return _index_stored(scene, entries, folder / TAR_NAME, limits)
        except (OSError, msgspec.MsgspecError, ClusterRayError):
            return None

    def _find(self, entry: Entry) -> Place | None:
        with self._lock:
            for stored in self._scenes.values():
                place = stored.places.get(entry.sha256)
                if place is not None and place.size == entry.size:
                    return place
        return None

    def _use(self, scene: SceneId) -> _Stored | None:
        now = time.monotonic()
        with self._lock:
            stored = self._scenes.get(scene)
            if stored is None:
                return None
            if scene == next(reversed(self._scenes)) and now - self._told_at < _TOLD_EVERY_S:
                # As for each lease of a job.
                return stored
            self._scenes[scene] = self._scenes.pop(scene)
            self._told_at = now
        # The order survives a restart as the folders' times; one that is lost does no harm.
        with contextlib.suppress(OSError):
            os.utime(self._folder / scene)
        return stored

    def _known(self, scene: SceneId) -> _Stored:
        stored = self._use(scene)
        if stored is None:
            raise SceneFault(f"the head has no scene {scene}; submit it again")
        return stored


@functools.lru_cache(maxsize=16)
def _files_of(folder: Path, scene: SceneId) -> tuple[Path, Path]:
    """Give tar and manifest of a scene; kept, for each lease asks for them."""
    return folder / scene / TAR_NAME, folder / scene / MANIFEST_NAME


def _check_limits(entries: Sequence[Entry], limits: ArchiveLimits) -> None:
    if len(entries) > limits.max_files:
        raise SceneFault(
            f"the scene has {len(entries)} files and the head takes {limits.max_files}; "
            "leave out what is not needed, or raise the head's max_scene_files"
        )
    total = sum(entry.size for entry in entries)
    if total > limits.max_bytes:
        raise SceneFault(
            f"the scene has {total} bytes and the head takes {limits.max_bytes}; "
            "leave out what is not needed, or raise the head's max_scene_bytes"
        )


def _write_manifest(target: Path, entries: Sequence[Entry]) -> None:
    with target.open("xb") as file:
        file.write(canonical_manifest(entries))
        file.flush()
        os.fsync(file.fileno())


def _index_stored(
    scene: SceneId, entries: Sequence[Entry], tar: Path, limits: ArchiveLimits
) -> _Stored:
    """Find the content of a scene's tar; SceneFault if it is not the tar of this manifest."""
    members = index_tar(tar, limits)
    ordered = sorted(entries, key=lambda entry: entry.path)
    listed = [(entry.path, entry.mode, entry.size) for entry in ordered]
    if scene_id(entries) != scene or listed != [(m.path, m.mode, m.size) for m in members]:
        raise SceneFault("the scene's tar does not fit its manifest")
    places = {
        entry.sha256: Place(scene, member.offset, member.size)
        for entry, member in zip(ordered, members, strict=True)
    }
    return _Stored(tar.stat().st_size, len(canonical_manifest(entries)), places)


def _gone(entry: Entry) -> SceneFault:
    return SceneFault("neither sent nor still at the head; submit the scene again", file=entry.path)
