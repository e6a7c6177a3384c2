"""The thread that turns accepted tiles into pictures, and what a light pass found into its light.

It also compares tiles of bands that were rendered twice.

The thread ``stitcher`` alone owns the FrameWriters; the public methods leave a note in its inbox
and may be called from any thread. Outcomes go to the callbacks given at construction, which run
on the stitcher's thread and must not block. Must not know of attempts or nodes: what comes here has
been accepted.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from PIL import Image

from clusterray.core.errors import ClusterRayError, LocalFault
from clusterray.core.model import BandId, FileFormat, JobId, Light, LightKind, Rect
from clusterray.core.verify import Comparison
from clusterray.head.checked_tiles import CheckedTiles
from clusterray.head.looks import Looks
from clusterray.images.compare import compare_tiles
from clusterray.images.preview import Layer
from clusterray.images.stitch import FrameWriter
from clusterray.images.tile import TileFault
from clusterray.povray.light_file import LightFault, join_light

OnFinished: TypeAlias = Callable[[JobId, int, Path, int, str, int], None]
"""(job, frame, path, size in bytes, sha256 hex, run), called on the stitcher's thread."""
OnJoined: TypeAlias = Callable[[JobId, int, Light | None, int], None]
"""(job, frame, its light; None if none was found, run), called on the stitcher's thread."""
OnCompared: TypeAlias = Callable[[JobId, int, BandId, Comparison | None, str], None]
"""(job, frame, verify band, what was found; None: nothing, and why), on the stitcher's thread."""
OnFailed: TypeAlias = Callable[[JobId, int, str, int], None]
"""(job, frame, reason in words, run), called on the stitcher's thread."""

PREVIEW_SIDE: Final = 640
"""Longer side of a preview in pixels, at most."""
PREVIEW_EVERY_S: Final = 0.5
"""A job's preview is made no more often than this."""
PREVIEW_PATIENCE_S: Final = 2.0
"""So much later it is made if there is always something else to do."""
PREVIEW_SHARE: Final = 0.1
"""Previews may take no more than this share of the thread's time."""
LOOK_WAIT_S: Final = 1.0
"""So long at most somebody who begins to look waits for a preview; then he sees the last one."""
KEPT_PREVIEWS: Final = 50
"""Of so many jobs the last preview is kept."""
_WAY_OUT: Final = "look after the head's disk and submit the job again"

_log = logging.getLogger("clusterray.head.stitcher")


@dataclass(frozen=True, slots=True)
class _Begin:
    job: JobId
    frame: int
    region: Rect
    kind: FileFormat
    target: Path
    run: int


@dataclass(frozen=True, slots=True)
class _Join:
    job: JobId
    frame: int
    kind: LightKind
    parts: tuple[Path, ...]
    target: Path


@dataclass(frozen=True, slots=True)
class _Add:
    job: JobId
    frame: int
    path: Path
    rect: Rect


@dataclass(frozen=True, slots=True)
class _Sketch:
    job: JobId
    frame: int
    picture: Image.Image
    rect: Rect | None
    layer: Layer


@dataclass(frozen=True, slots=True)
class Pair:
    """Two tiles of the pixels ``rect`` to be compared for the verify band ``band``."""

    band: BandId
    tiles: tuple[Path, Path]
    rect: Rect
    kind: FileFormat


@dataclass(frozen=True, slots=True)
class _Compare:
    job: JobId
    frame: int
    pair: Pair


@dataclass(frozen=True, slots=True)
class _Finish:
    job: JobId
    frame: int


@dataclass(frozen=True, slots=True)
class _Abandon:
    job: JobId


class _Look:
    """Somebody has begun to look at previews: see what is due."""


class _Stop:
    """Nothing after this note is looked at."""


_FrameNote: TypeAlias = _Begin | _Join | _Add | _Sketch | _Finish
_Note: TypeAlias = _FrameNote | _Compare | _Abandon | _Look | _Stop


@dataclass(slots=True)
class _Frame:
    """One frame being written."""

    writer: FrameWriter
    target: Path
    run: int = 0


@dataclass(slots=True)
class _Due:
    """When a job's preview may be made again, and of which frame; ``frame`` None: nothing new."""

    frame: int | None
    not_before_at: float


class Stitcher:
    """Puts tiles together, frame by frame, and publishes what is there so far.

    After ``begin`` each frame ends in exactly one call of ``on_finished`` or ``on_failed``, unless
    its job is abandoned or the stitcher stops first. Notes about unknown frames are ignored: they
    belong to a frame that failed or was abandoned. ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        on_finished: OnFinished,
        on_failed: OnFailed,
        *,
        on_joined: OnJoined = lambda _job, _frame, _light, _run: None,
        on_compared: OnCompared = lambda _job, _frame, _band, _found, _reason: None,
        checked: CheckedTiles | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checked = checked or CheckedTiles()
        self._on_finished = on_finished
        self._on_failed = on_failed
        self._on_joined = on_joined
        self._on_compared = on_compared
        self._clock = clock
        self._inbox: queue.SimpleQueue[_Note] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stitcher")
        self._frames: dict[tuple[JobId, int], _Frame] = {}
        self._due: dict[str, _Due] = {}
        self._looks = Looks(clock)
        # Replaced as a whole, never changed, so any thread can read it.
        self._previews: Mapping[str, bytes] = {}

    # ------------------------------------------------------------ called from any thread

    def start(self) -> None:
        """Start the thread ``stitcher``."""
        self._thread.start()

    def begin(
        self,
        job: JobId,
        frame: int,
        region: Rect,
        kind: FileFormat,
        target: Path,
        *,
        run: int = 0,
    ) -> None:
        """Open a frame of the pixels ``region``, to be written to ``target``.

        Instead of the one that was opened before; what comes of it is told with its ``run``.
        """
        self._inbox.put(_Begin(job, frame, region, kind, target, run))

    def join(
        self, job: JobId, frame: int, kind: LightKind, parts: tuple[Path, ...], target: Path
    ) -> None:
        """Put the light ``parts`` of an open frame together into ``target``."""
        self._inbox.put(_Join(job, frame, kind, parts, target))

    def add(self, job: JobId, frame: int, path: Path, rect: Rect) -> None:
        """Put the accepted tile ``path`` into its frame."""
        self._inbox.put(_Add(job, frame, path, rect))

    def sketch(
        self, job: JobId, frame: int, picture: Image.Image, rect: Rect | None, layer: Layer
    ) -> None:
        """Have a frame's preview show what is to come, where it shows nothing better.

        ``picture`` is a small one of the pixels ``rect``, None for all that is wanted of the frame.
        """
        self._inbox.put(_Sketch(job, frame, picture, rect, layer))

    def compare(self, job: JobId, frame: int, pair: Pair) -> None:
        """Compare two tiles of a frame, written already or not; it ends in ``on_compared``."""
        self._inbox.put(_Compare(job, frame, pair))

    def finish(self, job: JobId, frame: int) -> None:
        """Write the picture, which all tiles added so far cover."""
        self._inbox.put(_Finish(job, frame))

    def abandon(self, job: JobId) -> None:
        """Forget all frames of the job and its preview."""
        self._inbox.put(_Abandon(job))

    def preview(self, job: str) -> bytes | None:
        """Give the job's picture as it was a moment ago, a PNG; None if there is none (yet).

        It is made for those who look: the first one waits for it.
        """
        if job in self._due:
            awaited = self._looks.look(job)
            if awaited is not None:
                self._inbox.put(_Look())
                awaited.wait(LOOK_WAIT_S)
        return self._previews.get(job)

    def has_preview(self, job: str) -> bool:
        """Tell whether there is something to be seen of a job; makes nothing."""
        return job in self._due or job in self._previews

    def stop(self, *, drain: bool = True) -> None:
        """End the thread and wait for it; may be called twice, or without start.

        With ``drain`` everything noted so far is done first, else only what is being done.
        """
        if not drain:
            self._hurry.set()
        self._inbox.put(_Stop())
        if self._thread.ident is not None:
            self._thread.join()

    # ------------------------------------------------------------ stitcher thread

    def _run(self) -> None:
        while not self._hurry.is_set():
            note = self._next_note()
            if isinstance(note, _Stop):
                break
            if note is not None:
                self._handle(note)
            self._publish_due()
        for key in list(self._frames):
            self._let_go(key)

    def _next_note(self) -> _Note | None:
        waits = [
            due.not_before_at
            for job, due in self._due.items()
            if due.frame is not None and self._looks.is_looked_at(job)
        ]
        timeout = max(0.0, min(waits) - self._clock()) if waits else None
        try:
            return self._inbox.get(timeout=timeout)
        except queue.Empty:
            return None

    def _handle(self, note: _FrameNote | _Compare | _Abandon | _Look) -> None:
        if isinstance(note, _Look):
            return
        if isinstance(note, _Abandon):
            self._forget_job(note.job)
            return
        if isinstance(note, _Compare):
            self._compare(note)
            return
        try:
            self._handle_frame(note)
        except LocalFault as fault:
            self._fail(note, f"{fault}; {_WAY_OUT}")
        except (TileFault, LightFault, ClusterRayError) as fault:
            self._fail(note, str(fault))
        except OSError as error:
            place = error.filename or "the picture"
            self._fail(note, f"{place}: {error.strerror}; {_WAY_OUT}")
        except MemoryError:
            self._fail(note, "the head has too little memory for this picture; render it smaller")
        except Exception as error:  # noqa: BLE001 - one frame must not end the thread of all frames
            _log.exception("frame %d of job %s could not be stitched", note.frame, note.job)
            self._fail(note, f"the head could not stitch the picture: {error!r}; please report it")

    def _handle_frame(self, note: _FrameNote) -> None:
        key = (note.job, note.frame)
        if isinstance(note, _Begin):
            self._let_go(key)
            writer = FrameWriter(note.region, note.kind, _place_for_rows(note.target))
            self._frames[key] = _Frame(writer, note.target, note.run)
            return
        frame = self._frames.get(key)
        if frame is None:
            return
        if isinstance(note, _Join):
            light = join_light(note.kind, note.parts, note.target)
            self._on_joined(note.job, note.frame, light, frame.run)
            return
        if isinstance(note, _Add):
            frame.writer.add(note.path, note.rect, self._checked.take(note.path))
            self._mark_due(note.job, note.frame)
            return
        if isinstance(note, _Sketch):
            self._sketch(note, frame.writer)
            return
        self._finish(note, frame)

    def _sketch(self, note: _Sketch, writer: FrameWriter) -> None:
        try:
            writer.sketch(note.picture, note.rect, note.layer)
        except Exception:  # noqa: BLE001 - what is only looked at must not cost a picture
            _log.exception("a sketch of job %s could not be drawn", note.job)
            return
        self._mark_due(note.job, note.frame)

    def _compare(self, note: _Compare) -> None:
        found, reason = None, ""
        pair = note.pair
        try:
            found = compare_tiles(*pair.tiles, pair.rect, pair.kind)
        except TileFault as fault:
            reason = f"a tile cannot be compared: {fault}"
        except MemoryError:
            reason = "the head has too little memory to compare two tiles of this size"
        except Exception as error:  # noqa: BLE001 - a comparison must not cost a picture
            _log.exception("band %s of job %s could not be compared", pair.band, note.job)
            reason = f"the head could not compare the tiles: {error!r}; please report it"
        self._on_compared(note.job, note.frame, pair.band, found, reason)

    def _finish(self, note: _Finish, frame: _Frame) -> None:
        frame.target.parent.mkdir(mode=0o700, exist_ok=True)
        written = frame.writer.finish(frame.target)
        self._on_finished(
            note.job, note.frame, frame.target, written.size, written.sha256, frame.run
        )
        # Who waits for the picture does not wait for its preview.
        self._publish(note.job, frame.writer)
        self._forget_frame(note.job, note.frame)

    def _fail(self, note: _FrameNote, reason: str) -> None:
        _log.error("frame %d of job %s: %s", note.frame, note.job, reason)
        frame = self._frames.get((note.job, note.frame))
        run = note.run if isinstance(note, _Begin) else frame.run if frame is not None else 0
        self._forget_frame(note.job, note.frame)
        self._on_failed(note.job, note.frame, reason, run)

    def _forget_frame(self, job: JobId, frame: int) -> None:
        self._let_go((job, frame))
        due = self._due.get(job)
        if due is not None and due.frame == frame:
            due.frame = None
        if not any(known == job for known, _ in self._frames):
            self._drop_due(job)

    def _let_go(self, key: tuple[JobId, int]) -> None:
        frame = self._frames.pop(key, None)
        if frame is not None:
            frame.writer.close()

    def _forget_job(self, job: JobId) -> None:
        for key in [key for key in self._frames if key[0] == job]:
            self._let_go(key)
        self._drop_due(job)
        self._previews = {known: png for known, png in self._previews.items() if known != job}

    # ------------------------------------------------------------ previews

    def _drop_due(self, job: JobId) -> None:
        self._due.pop(job, None)
        self._looks.forget(job)

    def _mark_due(self, job: JobId, frame: int) -> None:
        due = self._due.get(job)
        if due is None:
            self._due[job] = _Due(frame, self._clock())
        else:
            due.frame = frame

    def _publish_due(self) -> None:
        for job, due in list(self._due.items()):
            if not self._looks.is_looked_at(job):
                continue
            frame = None if due.frame is None else self._frames.get((JobId(job), due.frame))
            begun_at = self._clock()
            if frame is None or begun_at < due.not_before_at:
                self._looks.answer(job)
                continue
            if begun_at < due.not_before_at + PREVIEW_PATIENCE_S and not self._inbox.empty():
                # The next note may be that somebody waits for the picture.
                continue
            self._publish(job, frame.writer)
            self._looks.answer(job)
            ended_at = self._clock()
            pause_s = max(PREVIEW_EVERY_S, (ended_at - begun_at) / PREVIEW_SHARE)
            self._due[job] = _Due(None, begun_at + pause_s)

    def _publish(self, job: str, writer: FrameWriter) -> None:
        try:
            png = writer.preview(PREVIEW_SIDE)
        except Exception:  # noqa: BLE001 - see below; it is logged with its traceback
            # A picture nobody can look at yet is no reason to lose the one being made.
            _log.exception("no preview of job %s", job)
            return
        others = [(known, old) for known, old in self._previews.items() if known != job]
        self._previews = dict([*others[-(KEPT_PREVIEWS - 1) :], (job, png)])


def _place_for_rows(target: Path) -> Path:
    """Give the folder nearest to ``target`` that is there: a picture's rows wait on its disk."""
    return next(folder for folder in target.parents if folder.is_dir())
