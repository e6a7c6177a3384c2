"""What the disk holds of what the store knows: found when the farm has been read back.

The files decide what is covered. Those of accepted attempts of open jobs are checked by size and
hash. Those that came whole but were not accepted before the head was killed are taken in now, so
that nothing is rendered again. All other files nobody knows, and they go.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from clusterray.core.entities import Attempt, Frame, Job
from clusterray.core.events import Arrived, Restarted
from clusterray.core.farm import Farm
from clusterray.core.model import AttemptId, JobId, LightKind
from clusterray.core.states import BandState, FrameState, JobState
from clusterray.head.memory import Known
from clusterray.head.state_folder import StateFolder
from clusterray.head.uploads import (
    Announced,
    Expected,
    UploadFault,
    arrived_whole,
    expected_file,
    take_in,
)
from clusterray.images.tile import TileFault

_CHUNK: Final = 1 << 20

_log = logging.getLogger("clusterray.head.restart")


def look_through(farm: Farm, folder: StateFolder, known: Known) -> Restarted:
    """Look at all files of the farm's jobs, delete what belongs to none; nothing else changes."""
    tiles: set[AttemptId] = set()
    lights: set[tuple[JobId, int, LightKind]] = set()
    pictures: set[JobId] = set()
    arrived: list[Arrived] = []
    for job in farm.jobs.values():
        pictures.update(_pictures(job, known))
        if job.gone or job.state is JobState.DONE:
            continue
        for frame in job.frames:
            tiles.update(_tiles(frame, folder))
            lights.update(_lights(frame, folder))
    for node in farm.nodes.values():
        for attempt in node.attempts.values():
            arrived += _arrived(attempt, folder, known)
    kept = tiles.union(file.attempt for file in arrived)
    logs = {job.id for job in farm.jobs.values() if not job.gone}
    folder.sweep(kept, lights, pictures, logs)
    if arrived:
        _log.info("%d tiles had come whole and were not accepted yet", len(arrived))
    return Restarted(frozenset(tiles), frozenset(lights), frozenset(pictures), tuple(arrived))


def _pictures(job: Job, known: Known) -> Iterator[JobId]:
    result = known.results.get(job.id)
    if result is not None and _fits(result.path, result.size, result.sha256, thorough=job.open):
        yield job.id


def _tiles(frame: Frame, folder: StateFolder) -> Iterator[AttemptId]:
    """Give the accepted attempts whose files are there; those of passes that are over have none."""
    for band in frame.counting_bands:
        attempt = band.accepted
        if band.state is not BandState.COVERED or attempt is None:
            continue
        path = folder.file_of(attempt.id, band.stage)
        if _fits(path, attempt.size, attempt.sha256, thorough=frame.job.open):
            yield attempt.id
        else:
            _log.warning("the tile of %s, %s, is gone or changed", attempt.id, path)


def _lights(frame: Frame, folder: StateFolder) -> Iterator[tuple[JobId, int, LightKind]]:
    for light in frame.lights:
        path = folder.light_of(frame.job.id, frame.index, light.kind)
        if _fits(path, light.size, light.sha256, thorough=frame.job.open):
            yield frame.job.id, frame.index, light.kind
        elif frame.state is not FrameState.FINAL or not frame.complete:
            _log.warning("the light of %s, %s, is gone or changed", frame.job.id, path)


def _arrived(attempt: Attempt, folder: StateFolder, known: Known) -> Iterator[Arrived]:
    """Give the file of a live attempt if it lies here whole."""
    band = attempt.band
    spec = known.specs[band.frame.job.id]
    expected = expected_file(folder, spec, attempt.id, band.rect, band.stage)
    announced = Announced(attempt.size, attempt.sha256)
    try:
        if expected.tile.is_file():
            # It was checked before it came there; but what was announced may not be stored.
            expected.check(expected.tile)
        elif attempt.sha256 and arrived_whole(expected.upload, announced, _no_tick):
            take_in(expected, announced)
        else:
            return
        yield _mark(attempt.id, expected)
    except (UploadFault, TileFault, OSError) as fault:
        _log.warning("what came of %s cannot be taken in: %s", attempt.id, fault)


def _mark(attempt: AttemptId, expected: Expected) -> Arrived:
    return Arrived(attempt, expected.tile.stat().st_size, _sha256(expected.tile))


def _fits(path: Path, size: int, sha256: str, *, thorough: bool) -> bool:
    """Tell whether this very file is there; by its size alone unless ``thorough``."""
    try:
        if path.stat().st_size != size:
            return False
        return not thorough or _sha256(path) == sha256
    except OSError:
        return False


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _no_tick() -> None:
    """Nobody waits for heartbeats yet."""
