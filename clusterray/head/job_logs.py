"""What POV-Ray said in each attempt of a job, as files: bounded for an attempt and for a job.

The task manager's thread asks, and waits for no text to be written: what is not on the disk yet is
read from memory. Knows neither the farm nor who asks.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from clusterray.core.model import AttemptId, JobId
from clusterray.head.chores import Chores

ATTEMPT_BYTES: Final = 64 << 10
"""Of one attempt's text the end is kept, so much of it."""
JOB_BYTES: Final = 2 << 20
"""Beyond this the texts of a job that came first go first, a file of them."""
FILE_BYTES: Final = JOB_BYTES // 8
"""A file of at least so many bytes gets no more."""

MOST_WAITING: Final = 1000
"""With so many chores waiting for the disk no more texts are kept."""

_log = logging.getLogger("clusterray.head.job_logs")


_LINE: Final = re.compile(rb"== ([A-Za-z0-9_.-]{1,64}) ([0-9]{1,6})\n")
_Name: TypeAlias = tuple[JobId, AttemptId]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a text lies: in which file of its job, from which byte, and how many."""

    file: int
    start: int
    size: int


@dataclass(slots=True)
class _Kept:
    """Of one job: the sizes of its files by their numbers, the oldest first, and the texts."""

    files: dict[int, int]
    texts: dict[AttemptId, _Place]


class JobLogs:
    """The texts below ``folder``, many in a file: ``<job>/<number>.log``; written as ``chores``.

    A file for each would cost the disk more than all else that it does for a band. Before each text
    there is a line with its attempt and its size.
    """

    def __init__(self, folder: Path, chores: Chores) -> None:
        self._folder = folder
        self._chores = chores
        # What is still to be written, and what just is: put there by the task manager's thread, and
        # taken from the first to the second by the chores'.
        self._waiting: dict[_Name, bytes] = {}
        self._writing: Mapping[_Name, bytes] = {}

        # The chores' alone to change; the task manager's looks where a text is.
        self._kept: dict[JobId, _Kept] = {}

        # The task manager's alone: what it found of a job of which nothing was written since.
        self._found: tuple[JobId, _Kept] | None = None

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
                data = self._on_disk(job, attempt)
        except OSError:
            return ""
        # The first letter may have been cut.
        return data.decode("utf-8", "ignore")

    def discard(self, job: JobId) -> None:
        """Delete all texts of a job."""
        for name in list(self._waiting):
            if name[0] == job:
                self._waiting.pop(name, None)
        self._found = None
        self._chores.put(partial(self._delete, job))

    def _in_memory(self, name: _Name) -> bytes | None:
        # In the order in which a text goes from there to the disk, so that it is not missed.
        waiting, writing = self._waiting.get(name), self._writing
        return writing.get(name) if waiting is None else waiting

    def _on_disk(self, job: JobId, attempt: AttemptId) -> bytes:
        kept = self._kept.get(job)
        if kept is None:
            if self._found is None or self._found[0] != job:
                self._found = job, _find(self._folder / job)
            kept = self._found[1]
        place = kept.texts.get(attempt)
        if place is None:
            return b""
        with _file(self._folder / job, place.file).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), place.size, place.start)

    # ---------------------------------------------------------------- chores

    def _write_next(self, name: _Name) -> None:
        """Write texts of a job that wait, a file of them: their own chores find nothing then."""
        job, size = name[0], 0
        if name not in self._waiting:
            # The job is gone, or an earlier chore has written the text already.
            return
        texts: dict[AttemptId, bytes] = {}
        for each in list(self._waiting):
            data = self._waiting.get(each)
            if each[0] == job and data is not None and size < FILE_BYTES:
                texts[each[1]] = data
                size += len(data)
        self._writing = {(job, attempt): data for attempt, data in texts.items()}
        try:
            for attempt in list(texts):
                data = self._waiting.pop((job, attempt), None)
                if data is None:
                    del texts[attempt]
                else:
                    texts[attempt] = data
            self._writing = {(job, attempt): data for attempt, data in texts.items()}
            if texts:
                self._write(job, texts)
        finally:
            self._writing = {}

    def _write(self, job: JobId, texts: Mapping[AttemptId, bytes]) -> None:
        folder, kept = self._folder / job, self._kept_of(job)
        number = next(reversed(kept.files), 0)
        if not number or kept.files[number] >= FILE_BYTES:
            number += 1
            kept.files[number] = 0
        end = kept.files[number]
        pieces: list[bytes] = []
        places: dict[AttemptId, _Place] = {}
        for attempt, data in texts.items():
            line = f"== {attempt} {len(data)}\n".encode()
            places[attempt] = _Place(number, end + len(line), len(data))
            pieces += (line, data, b"\n")
            end += len(line) + len(data) + 1
        try:
            if not kept.files[number]:
                folder.mkdir(mode=0o700, exist_ok=True)
            _append(_file(folder, number), b"".join(pieces))
        except OSError as error:
            # A text less must not cost the band it is about. The file may end anywhere now.
            kept.files[number] = FILE_BYTES
            _log.warning("texts of %s are not kept: %s", job, error)
            return
        kept.files[number] = end
        kept.texts.update(places)
        while len(kept.files) > 1 and sum(kept.files.values()) > JOB_BYTES:
            self._drop_oldest(folder, kept)

    def _drop_oldest(self, folder: Path, kept: _Kept) -> None:
        oldest = next(iter(kept.files))
        del kept.files[oldest]
        for attempt in [each for each, place in kept.texts.items() if place.file == oldest]:
            del kept.texts[attempt]
        _file(folder, oldest).unlink(missing_ok=True)

    def _delete(self, job: JobId) -> None:
        self._kept.pop(job, None)
        shutil.rmtree(self._folder / job, ignore_errors=True)

    def _kept_of(self, job: JobId) -> _Kept:
        """Give what is kept of a job; found on the disk after a start."""
        if job not in self._kept:
            self._kept[job] = _find(self._folder / job)
        return self._kept[job]


def _find(folder: Path) -> _Kept:
    """Read where the texts of a job lie; whatever was not wholly written ends its file."""
    kept = _Kept({}, {})
    numbers = sorted(int(path.stem) for path in folder.glob("*.log") if path.stem.isdecimal())
    for number in numbers:
        content, at = _file(folder, number).read_bytes(), 0
        while (line := _LINE.match(content, at)) and line.end() + int(line[2]) < len(content):
            size = int(line[2])
            attempt = AttemptId(line[1].decode())
            kept.texts[attempt] = _Place(number, line.end(), size)
            at = line.end() + size + 1
        # Where it breaks off nothing is added.
        kept.files[number] = at if at == len(content) else max(len(content), FILE_BYTES)
    return kept


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number}.log"


def _append(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
