"""How much of the disk the head's files take, and what goes when more is needed.

What counts: scenes; picture, tiles and logs of each job that has ended; for each one that has not,
what it may come to need. Files of ended jobs and scenes nobody uses go, the oldest first. The task
manager's thread only; which files a job has is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Final

from clusterray.core.bands import render_area
from clusterray.core.entities import Job
from clusterray.core.farm import Farm
from clusterray.core.model import JobId, JobRequest, SceneId
from clusterray.head.job_logs import JOB_BYTES
from clusterray.head.memory import WallClock
from clusterray.head.scene_store import SceneStore
from clusterray.images.formats import pixel_bytes
from clusterray.povray.spec import RenderSpec

COPIES: Final = 3
"""So often the raw pixels of a picture may lie on the disk: in its tiles, in the rows that are
being joined, and in the finished file; once more in tiles that are only compared."""


def room_for(request: JobRequest, spec: RenderSpec) -> int:
    """Give the bytes that a job may come to need."""
    copies = COPIES + (request.verify != 0)
    return copies * render_area(request.picture).area * pixel_bytes(spec.file_format) + JOB_BYTES


class DiskRoom:
    """The head's disk. ``limit`` is in bytes, ``wall`` tells wall time of the farm's.

    ``size_of`` measures what an ended job's files take, ``discard`` has them deleted, with a reason
    for people; ``in_use`` gives the scenes that must stay.
    """

    def __init__(
        self,
        limit: int,
        farm: Farm,
        scenes: SceneStore,
        *,
        size_of: Callable[[Job], int],
        discard: Callable[[JobId, str], None],
        in_use: Callable[[], Set[SceneId]],
        wall: WallClock,
    ) -> None:
        self._limit = limit
        self._farm = farm
        self._scenes = scenes
        self._size_of = size_of
        self._discard = discard
        self._in_use = in_use
        self._wall = wall
        self._promised: dict[JobId, int] = {}
        self._kept: dict[JobId, int] = {}
        self._coming: dict[int, int] = {}

    # ---------------------------------------------------------------- notes

    def recount(self, specs: Mapping[JobId, RenderSpec]) -> None:
        """Count the farm's jobs anew, whatever was counted before."""
        self._promised.clear()
        self._kept.clear()
        for job in self._farm.open_jobs:
            self.job_begun(job, specs[job.id])
        for job in self._farm.kept.values():
            self.job_ended(job)

    def job_begun(self, job: Job, spec: RenderSpec) -> None:
        """Promise an open job what its pictures may need."""
        self._kept.pop(job.id, None)
        self._promised[job.id] = room_for(job.request, spec)

    def job_ended(self, job: Job) -> None:
        """Count what an ended job's files take, no longer what was promised."""
        self._promised.pop(job.id, None)
        self._kept[job.id] = self._size_of(job)

    def forget(self, job: JobId) -> None:
        """Count a job no more: its files are deleted."""
        self._promised.pop(job, None)
        self._kept.pop(job, None)

    def scene_comes(self, conn: int, size: int) -> None:
        """Count what a client is sending; 0: nothing more."""
        self._coming[conn] = size
        if not size:
            del self._coming[conn]

    # ---------------------------------------------------------------- room

    def make_room(self, wanted: int, what: str, keep: Job | None = None) -> str:
        """Delete what is old until ``wanted`` bytes fit, or say why they cannot.

        Nothing is deleted where that would not help. ``what`` needs the room, in words. Files and
        scene of ``keep`` stay, and the files count among what is wanted.
        """
        in_use = set(self._in_use())
        if keep is not None:
            in_use.add(keep.request.scene)
        promised = sum(self._promised.values())
        scenes = self._scenes.total_bytes(in_use) + sum(self._coming.values())
        if promised + scenes + wanted > self._limit:
            return self._no_room(wanted, promised, scenes, what)
        # As long as they stay, they are no others' and would be counted twice.
        wanted -= self._kept.get(keep.id, 0) if keep is not None else 0
        while self._used() + wanted > self._limit and self._let_oldest_go(in_use, keep):
            pass
        return ""

    def _used(self) -> int:
        ours = (*self._promised.values(), *self._kept.values(), *self._coming.values())
        return sum(ours) + self._scenes.total_bytes()

    def _let_oldest_go(self, in_use: Set[SceneId], keep: Job | None) -> bool:
        scene = self._scenes.oldest(in_use)
        sized = (job for job in self._farm.kept.values() if self._kept.get(job.id))
        job = next((job for job in sized if job is not keep), None)
        if job is not None and (scene is None or self._ended_wall(job) < scene[1]):
            # Counted no more from now on, whenever its files are deleted.
            del self._kept[job.id]
            self._discard(job.id, "its files were deleted to make room (setting disk_bytes)")
            return True
        if scene is None:
            return False
        self._scenes.remove(scene[0])
        return True

    def _ended_wall(self, job: Job) -> float:
        return (job.ended_at or 0.0) + self._wall.offset

    def _no_room(self, wanted: int, promised: int, scenes: int, what: str) -> str:
        jobs = len(self._promised)
        who = "1 job that waits or runs" if jobs == 1 else f"{jobs} jobs that wait or run"
        return (
            f"no room on the head's disk: {what} needs up to {in_words(wanted)}, and the head may "
            f"use {in_words(self._limit)} (setting disk_bytes), of which {in_words(promised)} are "
            f"promised to {who} and {in_words(scenes)} are scenes in use"
        )


def in_words(size: int) -> str:
    """Give bytes as ``512 B``, ``1.5 kB``, ``20.0 GB``; units of 1000."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
