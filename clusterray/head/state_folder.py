"""The head's folder on disk: where each thing lies, the lock, and what is remembered of a start.

Paths only and the few tiny files of the head itself; tokens, scenes and pictures have rooms of
their own. ARCHITECTURE.md lists every file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import uuid
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from clusterray.core.entities import Job
from clusterray.core.errors import LocalFault
from clusterray.core.model import LIGHT_KINDS, STAGE_OF, AttemptId, JobId, LightKind, Stage
from clusterray.core.states import JobState

FIDELITY_SUFFIX = ".fidelity.json"
"""Behind the name of a picture, whose own end is another one: the two never meet."""

_log = logging.getLogger("clusterray.head.state_folder")


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of the last start, tried first at the next; 0 where there was none."""

    control: int = 0
    ftp: int = 0
    http: int = 0


class StateFolder:
    """The folder that one head owns while it runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scenes = root / "scenes"
        self.partials = root / "partials"
        self.logs = root / "logs"
        self.store = root / "farm.db"
        self._incoming = root / "incoming"
        self._tiles = root / "tiles"
        self._results = root / "results"
        self._lock_fd: int | None = None

    def open(self) -> None:
        """Make the folder and lock it. What an earlier head left is swept once the store is read.

        Raises LocalFault naming the pid if another head has it, or the path if it cannot be used.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock()
            shutil.rmtree(self.partials, ignore_errors=True)
            made = (self._incoming, self._tiles, self.partials, self._results, self.logs)
            for folder in (*made, self.scenes):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise LocalFault(
                f"cannot use the state folder {self.root}: {error.strerror}; "
                "choose another with --state"
            ) from error

    def close(self) -> None:
        """Give the folder free."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _lock(self) -> None:
        fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise LocalFault(
                f"another head (pid {pid}) uses the state folder {self.root}; "
                "stop it or choose another folder with --state"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock_fd = fd

    # ---------------------------------------------------------------- paths

    def upload_of(self, attempt: AttemptId) -> Path:
        """Where the FTP upload of an attempt lands."""
        return self._incoming / f"{attempt}.part"

    def tile_of(self, attempt: AttemptId) -> Path:
        """Where the verified tile of an attempt lies."""
        return self._tiles / f"{attempt}.png"

    def made_light_of(self, attempt: AttemptId) -> Path:
        """Where the verified light that an attempt of a light pass made lies."""
        return self._tiles / f"{attempt}.light"

    def file_of(self, attempt: AttemptId, stage: Stage) -> Path:
        """Where what an attempt of a band of this stage left lies, once it is verified."""
        light = stage in STAGE_OF.values()
        return self.made_light_of(attempt) if light else self.tile_of(attempt)

    def light_of(self, job: JobId, frame: int, kind: LightKind) -> Path:
        """Where the joined light of a frame lies."""
        return self._tiles / f"{job}-{frame}.{kind}"

    def result_of(self, job: JobId, name: str) -> Path:
        """Where the finished picture of a job goes; its writer makes the folder."""
        return self._results / job / name

    def write_beside(self, picture: Path, text: str) -> None:
        """Keep ``text`` as what is known of the finished picture; it goes with it."""
        self._write(_beside(picture), text)

    def has_beside(self, picture: Path) -> bool:
        """Tell whether something is kept as known of the picture."""
        return _beside(picture).is_file()

    def discard_attempt(self, attempt: AttemptId) -> None:
        """Delete whatever was uploaded for an attempt."""
        for path in (self.upload_of(attempt), self.tile_of(attempt), self.made_light_of(attempt)):
            _delete(path)

    def discard_light(self, job: JobId, frame: int) -> None:
        """Delete the joined light of a frame."""
        for kind in LIGHT_KINDS:
            _delete(self.light_of(job, frame, kind))

    def discard_result(self, job: JobId) -> None:
        """Delete the folder of a job's finished picture."""
        shutil.rmtree(self._results / job, ignore_errors=True)

    def bytes_of(self, job: Job) -> int:
        """Give the bytes that picture, logs, light and tiles of a job take on the disk."""
        files = [
            path for folder in (self._results, self.logs) for path in folder.glob(f"{job.id}/*")
        ]
        for frame in job.frames:
            files += [self.light_of(job.id, frame.index, kind) for kind in LIGHT_KINDS]
            # Of a job that is done they are deleted, or about to be.
            for band in frame.all_bands if job.state is not JobState.DONE else ():
                files += [self.file_of(attempt.id, band.stage) for attempt in band.attempts]
        return sum(map(_size, files))

    def sweep(
        self,
        attempts: Set[AttemptId],
        lights: Set[tuple[JobId, int, LightKind]],
        pictures: Set[JobId],
        logs: Set[JobId],
    ) -> None:
        """Delete all uploads, and what there is but the tiles of these ``attempts``, these
        ``lights``, and the finished pictures and the logs of these jobs.
        """
        kept = {self.light_of(*light) for light in lights}
        for attempt in attempts:
            kept |= {self.tile_of(attempt), self.made_light_of(attempt)}
        for path in (*self._incoming.iterdir(), *self._tiles.iterdir()):
            if path not in kept:
                _delete(path)
        for root, jobs in ((self._results, pictures), (self.logs, logs)):
            for folder in root.iterdir():
                if folder.name not in jobs:
                    shutil.rmtree(folder, ignore_errors=True)
        for half in self._results.glob("*/*.part"):
            _delete(half)

    # ---------------------------------------------------------------- what is remembered

    def farm_id(self) -> str:
        """Give the uuid of this folder, made on first start."""
        path = self.root / "farm-id"
        with contextlib.suppress(FileNotFoundError):
            return path.read_text("ascii").strip()
        made = str(uuid.uuid4())
        self._write(path, made + "\n")
        return made

    def ports(self) -> Ports:
        """Give the ports of the last start."""
        try:
            saved = json.loads((self.root / "ports.json").read_text("ascii"))
            return Ports(int(saved["control"]), int(saved["ftp"]), int(saved["http"]))
        except (OSError, ValueError, KeyError, TypeError):
            return Ports()

    def remember_ports(self, ports: Ports) -> None:
        """Keep the ports for the next start."""
        saved = {"control": ports.control, "ftp": ports.ftp, "http": ports.http}
        self._write(self.root / "ports.json", json.dumps(saved) + "\n")

    def _write(self, path: Path, text: str) -> None:
        temporary = path.with_suffix(".new")
        temporary.write_text(text, "ascii")
        temporary.replace(path)


def _beside(picture: Path) -> Path:
    return picture.with_name(f"{picture.name}{FIDELITY_SUFFIX}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("cannot delete %s: %s", path, error.strerror)
