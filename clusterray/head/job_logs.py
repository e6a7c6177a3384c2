"""What POV-Ray said in each attempt of a job, as files: bounded for an attempt and for a job.

The task manager's thread only. Knows neither the farm nor who asks.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Final

from clusterray.core.model import AttemptId, JobId

ATTEMPT_BYTES: Final = 64 << 10
"""Of one attempt's text the end is kept, so much of it."""
JOB_BYTES: Final = 2 << 20
"""Beyond this the texts of a job that came first go first."""

_log = logging.getLogger("clusterray.head.job_logs")


class JobLogs:
    """The texts below ``folder``: ``<job>/<attempt>.txt``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[JobId, dict[str, int]] = {}

    def keep(self, job: JobId, attempt: AttemptId, text: str) -> None:
        """Keep the end of an attempt's text, instead of what was kept of it before."""
        data = text.encode("utf-8", "replace")[-ATTEMPT_BYTES:]
        if not data:
            return
        sizes = self._sizes_of(job)
        name = f"{attempt}.txt"
        try:
            (self._folder / job).mkdir(mode=0o700, exist_ok=True)
            (self._folder / job / name).write_bytes(data)
        except OSError as error:
            # A text less must not cost the band it is about.
            _log.warning("the text of %s is not kept: %s", attempt, error)
            return
        sizes.pop(name, None)
        sizes[name] = len(data)
        while sum(sizes.values()) > JOB_BYTES:
            oldest = next(iter(sizes))
            del sizes[oldest]
            (self._folder / job / oldest).unlink(missing_ok=True)

    def read(self, job: JobId, attempt: AttemptId) -> str:
        """Give the text of an attempt, "" if none is kept."""
        try:
            data = (self._folder / job / f"{attempt}.txt").read_bytes()
        except OSError:
            return ""
        # The first letter may have been cut.
        return data.decode("utf-8", "ignore")

    def discard(self, job: JobId) -> None:
        """Delete all texts of a job."""
        self._sizes.pop(job, None)
        shutil.rmtree(self._folder / job, ignore_errors=True)

    def _sizes_of(self, job: JobId) -> dict[str, int]:
        """Give the sizes of a job's files, the oldest first; found on the disk after a start."""
        if job not in self._sizes:
            files = [(path, path.stat()) for path in self._folder.glob(f"{job}/*.txt")]
            files.sort(key=lambda found: found[1].st_mtime)
            self._sizes[job] = {path.name: stat.st_size for path, stat in files}
        return self._sizes[job]
