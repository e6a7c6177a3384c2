"""The check of an uploaded tile before the farm hears of it, and how it is kept.

On the threads of ``keeper``, and at a start on the task manager's.

pyftpdlib's "received" proves nothing (a killed uploader looks like success), so the announced size
and hash decide, and then the pixels: header, mode and every row. Knows files, not the farm.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clusterray.core.model import STAGE_OF, AttemptId, FileFormat, LightKind, Rect, Stage
from clusterray.head.durable import sync, sync_all
from clusterray.head.state_folder import StateFolder
from clusterray.images.formats import is_whole_picture, pixel_bytes
from clusterray.images.png_reader import SMALL_FILE_BYTES, PngFile, content_of
from clusterray.images.tile import TileFault, check_tile
from clusterray.povray.light_file import LightFault, check_light, light_limit
from clusterray.povray.spec import RenderSpec

CHUNK_BYTES = 1 << 20

_MADE_IN: Final[Mapping[Stage, LightKind]] = {stage: kind for kind, stage in STAGE_OF.items()}
_numbers = itertools.count()


class UploadFault(Exception):
    """What arrived is not the file that was announced: something on the way is to blame."""


@dataclass(frozen=True, slots=True)
class Announced:
    """What the node said of the file it uploads."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Expected:
    """What the tile of an attempt must be, where it lands and where it goes when it is right.

    ``size`` is the whole picture's.
    """

    rect: Rect
    kind: FileFormat
    upload: Path
    tile: Path
    size: tuple[int, int]

    def check(self, upload: Path, content: bytes | None = None) -> PngFile | None:
        """Raise TileFault if what was uploaded is not the tile; ``content`` is all of it.

        Gives a PNG, and what was found.
        """
        tile = check_tile(upload, self.rect, self.kind, size=self.size, content=content)
        return tile if isinstance(tile, PngFile) else None


@dataclass(frozen=True, slots=True)
class ExpectedLight(Expected):
    """The light that an attempt of a light pass leaves in the place of a tile."""

    light: LightKind = "radiosity"

    def check(self, upload: Path, content: bytes | None = None) -> None:
        """Raise TileFault if what was uploaded holds anything else; no light is a PNG."""
        try:
            check_light(self.light, upload)
        except LightFault as fault:
            raise TileFault(str(fault)) from None


def expected_file(
    folder: StateFolder, spec: RenderSpec, attempt: AttemptId, rect: Rect, stage: Stage
) -> Expected:
    """Give what an attempt is to leave at the head."""
    upload, size = folder.upload_of(attempt), (spec.width, spec.height)
    made = _light_made_in(stage)
    if made is None:
        return Expected(rect, spec.file_format, upload, folder.tile_of(attempt), size)
    kept = folder.made_light_of(attempt)
    return ExpectedLight(rect, spec.file_format, upload, kept, size, made)


def upload_user(attempt: AttemptId) -> str:
    """Name the FTP login that writes what an attempt leaves."""
    return f"w-{attempt}"


def upload_limit(spec: RenderSpec, rect: Rect, stage: Stage) -> int:
    """Give the most bytes that what an attempt is to leave can have."""
    made = _light_made_in(stage)
    return tile_limit(rect, spec) if made is None else light_limit(made, rect)


def tile_limit(rect: Rect, spec: RenderSpec) -> int:
    """Give the most bytes a tile can have: its raw rows, packing's worst growth, headers.

    Where a tile is as large as the picture, its black rows are counted too: they pack well, but a
    limit is no estimate.
    """
    width, height, kind = rect.width, rect.height, spec.file_format
    if is_whole_picture(kind):
        width, height = spec.width, spec.height
    raw = height * (width * pixel_bytes(kind) + 8)
    return raw + raw // 50 + 65_536


def _light_made_in(stage: Stage) -> LightKind | None:
    return _MADE_IN.get(stage)


def arrived_whole(upload: Path, announced: Announced, tick: Callable[[], None]) -> bool:
    """Tell whether a file of the announced size and hash lies there.

    ``tick`` is called between chunks, so that heartbeats flow.
    """
    try:
        fd = os.open(upload, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        whole = os.fstat(fd).st_size == announced.size
        return whole and _sha256(fd, announced.size, tick) == announced.sha256
    except OSError:
        return False
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Checked:
    """An upload that is what it should be, and where it goes once it is on the disk."""

    path: Path
    tile: Path
    found: PngFile | None = None


def check_upload(expected: Expected, announced: Announced) -> Checked:
    """Check the upload wholly, and put it aside to be kept.

    Raises UploadFault in words if it is not the file that was announced, TileFault if that file is
    not the tile, OSError if this machine cannot read it; then it is gone.
    """
    # Under a name that no upload has: the node may be back already and upload once more.
    aside = Path(f"{expected.upload}.{next(_numbers)}")
    try:
        _move(expected.upload, aside)
    except FileNotFoundError:
        raise UploadFault("no tile was uploaded") from None
    try:
        found = expected.check(aside, _announced_content(aside, announced))
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return Checked(aside, expected.tile, found)


def _announced_content(path: Path, announced: Announced) -> bytes | None:
    """Give the content of a small file, None of another; raises UploadFault, OSError.

    What was announced is in it then.
    """
    content = content_of(path) if announced.size <= SMALL_FILE_BYTES else None
    if content is not None:
        right = len(content) == announced.size
        right = right and hashlib.sha256(content).hexdigest() == announced.sha256
    else:
        right = arrived_whole(path, announced, _no_tick)
    if not right:
        raise UploadFault("the uploaded tile is not the file that was announced")
    return content


def keep(uploads: Sequence[Checked]) -> None:
    """Make uploads durable and move them to the tiles; all of them, or OSError is raised.

    Then none of them counts: those that were not moved yet are gone.
    """
    try:
        sync_all([upload.path for upload in uploads])
        for upload in uploads:
            _move(upload.path, upload.tile)
        for folder in {upload.tile.parent for upload in uploads}:
            sync(folder)
    except BaseException:
        for upload in uploads:
            upload.path.unlink(missing_ok=True)
        raise


def _move(source: Path, target: Path) -> None:
    os.rename(source, target)  # noqa: PTH104 - Path's makes a Path, which costs as much again


def take_in(expected: Expected, announced: Announced) -> None:
    """Check an upload and keep it; raises as ``check_upload`` and ``keep`` do."""
    keep((check_upload(expected, announced),))


def _no_tick() -> None:
    """Nobody waits for heartbeats."""


def _sha256(fd: int, size: int, tick: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    while size > 0 and (chunk := os.read(fd, min(size, CHUNK_BYTES))):
        digest.update(chunk)
        size -= len(chunk)
        if size:
            tick()
    return digest.hexdigest()
