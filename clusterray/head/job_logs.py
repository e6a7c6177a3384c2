"""What POV-Ray said in each attempt of a job, as files: bounded for an attempt and for a job.

The task manager's thread asks, and waits for no text to be written: what is not on the disk yet is
read from memory. Knows neither the farm nor who asks.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from clusterray.core.model import AttemptId, JobId
from clusterray.head.chores import Chores

ATTEMPT_BYTES: Final = 64 << 10
"""Of one attempt's text the end is kept, so much of it."""
JOB_BYTES: Final = 2 << 20
"""Beyond this the texts of a job that came first go first."""

MOST_WAITING: Final = 1000
"""With so many chores waiting for the disk no more texts are kept."""

_log = logging.getLogger("clusterray.head.job_logs")


_Name: TypeAlias = tuple[JobId, AttemptId]


@dataclass(slots=True)
class _Kept:
    """Of one job: the sizes of its files, the oldest first, and their sum."""

    sizes: dict[str, int]
    total: int


class JobLogs:
    """The texts below ``folder``: ``<job>/<attempt>.txt``; written and deleted as ``chores``."""

    def __init__(self, folder: Path, chores: Chores) -> None:
        self._folder = folder
        self._chores = chores
        # What is still to be written, and what just is: put there by the task manager's thread, and
        # taken from the first to the second by the chores'.
        self._waiting: dict[_Name, bytes] = {}
        self._writing: tuple[_Name, bytes] | None = None

        # The chores' alone.
        self._kept: dict[JobId, _Kept] = {}

    def keep(self, job: JobId, attempt: AttemptId, text: str) -> None:
        """Keep the end of an attempt's text, instead of what was kept of it before.

        Not where the disk is far behind: a text less must not cost memory without bound.
        """
        data = text.encode("utf-8", "replace")[-ATTEMPT_BYTES:]
        if data and self._chores.waiting() < MOST_WAITING:
            self._waiting[job, attempt] = data
            self._chores.put(partial(self._write_next, (job, attempt)))

    def read(self, job: JobId, attempt: AttemptId) -> str:
        """Give the text of an attempt, "" if none is kept."""
        try:
            data = self._in_memory((job, attempt))
            if data is None:
                data = (self._folder / job / f"{attempt}.txt").read_bytes()
        except OSError:
            return ""
        # The first letter may have been cut.
        return data.decode("utf-8", "ignore")

    def discard(self, job: JobId) -> None:
        """Delete all texts of a job."""
        for name in list(self._waiting):
            if name[0] == job:
                self._waiting.pop(name, None)
        self._chores.put(partial(self._delete, job))

    def _in_memory(self, name: _Name) -> bytes | None:
        # In the order in which a text goes from there to the disk, so that it is not missed.
        waiting, writing = self._waiting.get(name), self._writing
        if waiting is None and writing is not None and writing[0] == name:
            return writing[1]
        return waiting

    # ---------------------------------------------------------------- chores

    def _write_next(self, name: _Name) -> None:
        data = self._waiting.get(name)
        if data is None:
            # The job is gone, or an earlier chore has written the newer text already.
            return
        self._writing = name, data
        try:
            data = self._waiting.pop(name, None)
            if data is not None:
                self._writing = name, data
                self._write(*name, data)
        finally:
            self._writing = None

    def _write(self, job: JobId, attempt: AttemptId, data: bytes) -> None:
        kept, name = self._kept_of(job), f"{attempt}.txt"
        folder = self._folder / job
        try:
            if not kept.sizes:
                folder.mkdir(mode=0o700, exist_ok=True)
            _write_file(f"{folder}/{name}", data)
        except OSError as error:
            # A text less must not cost the band it is about.
            _log.warning("the text of %s is not kept: %s", attempt, error)
            return
        kept.total += len(data) - kept.sizes.pop(name, 0)
        kept.sizes[name] = len(data)
        while kept.total > JOB_BYTES:
            oldest = next(iter(kept.sizes))
            kept.total -= kept.sizes.pop(oldest)
            (folder / oldest).unlink(missing_ok=True)

    def _delete(self, job: JobId) -> None:
        self._kept.pop(job, None)
        shutil.rmtree(self._folder / job, ignore_errors=True)

    def _kept_of(self, job: JobId) -> _Kept:
        """Give what is kept of a job; found on the disk after a start."""
        if job not in self._kept:
            files = [(path, path.stat()) for path in self._folder.glob(f"{job}/*.txt")]
            files.sort(key=lambda found: found[1].st_mtime)
            sizes = {path.name: stat.st_size for path, stat in files}
            self._kept[job] = _Kept(sizes, sum(sizes.values()))
        return self._kept[job]


def _write_file(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
