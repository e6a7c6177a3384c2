"""The threads that check uploads and have them on the disk before the farm hears of them.

A few threads check: what a thousand nodes deliver would have a thousand threads stand in line for
the interpreter at each step. One thread keeps what is right, many at a time, for a sync of the disk
takes about as long for one file as for a hundred. What comes of an upload is posted as an event.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from clusterray.core.events import TileNotKept, TileRefused, TileVerified, UploadDamaged
from clusterray.core.model import AttemptId
from clusterray.head.checked_tiles import CheckedTiles
from clusterray.head.uploads import (
    Announced,
    Checked,
    Expected,
    UploadFault,
    check_upload,
    keep,
)
from clusterray.images.tile import TileFault

MOST_TILES: Final = 256
"""So many share a sync at most."""
_MOST_CHECKERS: Final = 4

_log = logging.getLogger("clusterray.head.keeper")
Found: TypeAlias = TileVerified | TileNotKept | TileRefused | UploadDamaged


def _taken() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that is being taken in."""

    attempt: AttemptId
    expected: Expected
    announced: Announced
    _told: threading.Lock = field(default_factory=_taken)

    def settle(self) -> None:
        """Wait until the event of what came of it is posted."""
        with self._told:
            pass

    def told(self) -> None:
        """Let those go on who wait."""
        with suppress(RuntimeError):
            self._told.release()


_Right: TypeAlias = tuple[Upload, Checked]


class Keeper:
    """Takes uploads in. ``post`` takes the events; ``on_crash`` is called if a thread dies.

    What is known of tiles is left in ``checked`` for the stitcher.
    """

    def __init__(
        self,
        post: Callable[[Found], None],
        on_crash: Callable[[], None],
        checked: CheckedTiles | None = None,
    ) -> None:
        self._checked = checked or CheckedTiles()
        self._post = post
        self._on_crash = on_crash
        self._crashed = False
        self._unchecked: queue.SimpleQueue[Upload | None] = queue.SimpleQueue()
        self._right: queue.SimpleQueue[_Right | None] = queue.SimpleQueue()
        count = min(_MOST_CHECKERS, os.cpu_count() or 1)
        self._checkers = [
            threading.Thread(target=self._run, args=(self._check_one,), name=f"checker-{number}")
            for number in range(count)
        ]
        self._keeper = threading.Thread(target=self._run, args=(self._keep_some,), name="keeper")

    # ---------------------------------------------------------------- any thread

    def start(self) -> None:
        """Start the threads ``checker-N`` and ``keeper``."""
        for thread in (*self._checkers, self._keeper):
            thread.start()

    def take_in(self, attempt: AttemptId, expected: Expected, announced: Announced) -> Upload:
        """Take in what ``attempt`` left; one event follows, whatever comes of it."""
        upload = Upload(attempt, expected, announced)
        self._unchecked.put(upload)
        if self._crashed:
            upload.told()
        return upload

    def stop(self) -> None:
        """Take in what is there, then end the threads."""
        for checker in self._checkers:
            if checker.is_alive():
                self._unchecked.put(None)
        for checker in self._checkers:
            if checker.is_alive():
                checker.join()
        if self._keeper.is_alive():
            self._right.put(None)
            self._keeper.join()

    # ---------------------------------------------------------------- the threads

    def _run(self, step: Callable[[], bool]) -> None:
        try:
            while step():
                pass
        except Exception:  # noqa: BLE001 - without its threads no tile would be taken any more
            _log.critical("the keeper of tiles has a fault; the head stops", exc_info=True)
            self._crashed = True
            self._on_crash()
            self._let_all_go()

    def _let_all_go(self) -> None:
        """Nobody shall wait for what is no longer done."""
        while not self._unchecked.empty():
            upload = self._unchecked.get()
            if upload is not None:
                upload.told()
        while not self._right.empty():
            right = self._right.get()
            if right is not None:
                right[0].told()

    def _check_one(self) -> bool:
        upload = self._unchecked.get()
        if upload is None:
            return False
        try:
            self._check(upload)
        except BaseException:
            upload.told()
            raise
        return True

    def _check(self, upload: Upload) -> None:
        try:
            checked = check_upload(upload.expected, upload.announced)
        except UploadFault as fault:
            self._tell(upload, UploadDamaged(upload.attempt, str(fault)))
        except TileFault as fault:
            self._tell(upload, TileRefused(upload.attempt, str(fault)))
        except OSError as error:
            self._tell(upload, _not_kept(upload, error))
        else:
            self._right.put((upload, checked))
            if self._crashed:
                upload.told()

    def _keep_some(self) -> bool:
        """Keep the tiles that are there; False after the last."""
        taken = [self._right.get()]
        while len(taken) < MOST_TILES and taken[-1] is not None:
            try:
                taken.append(self._right.get_nowait())
            except queue.Empty:
                break
        right = [each for each in taken if each is not None]
        try:
            if right:
                self._keep_all(right)
        except BaseException:
            for upload, _ in right:
                upload.told()
            raise
        return taken[-1] is not None

    def _keep_all(self, right: list[_Right]) -> None:
        try:
            keep([checked for _, checked in right])
        except OSError as error:
            for upload, _ in right:
                self._tell(upload, _not_kept(upload, error))
            return
        for upload, checked in right:
            if checked.found is not None:
                self._checked.put(checked.tile, checked.found)
            self._tell(upload, TileVerified(upload.attempt))

    def _tell(self, upload: Upload, found: Found) -> None:
        self._post(found)
        upload.told()


def _not_kept(upload: Upload, error: OSError) -> TileNotKept:
    reason = f"the head cannot keep the tile {upload.expected.tile}: {error.strerror}"
    _log.error("%s", reason)
    return TileNotKept(upload.attempt, reason)
