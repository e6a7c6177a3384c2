"""Whether this node can take bands at all: room on its disk, and leave to write there.

The "render" threads look, before each band, after each that failed, and now and then while
something is in the way; they tell the head, so that no band is leased to a node that would fail
it. "main" says it in HELLO. Knows nothing of what takes the room.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from clusterray.wire.protocol import Message, Unfit

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""How often an unfit node looks whether it can work again."""
MakeRoom = Callable[[Callable[[], bool]], None]
"""Removes what can be had again until what it is given tells that there is room enough."""
_PROBE = ".probe"
_MIB = 1 << 20


class Workplace:
    """The folders in which this node must be able to write, and the room it needs there."""

    def __init__(self, work: Path, folders: tuple[Path, ...], least_free_bytes: int) -> None:
        self._work = work
        self._folders = folders
        self._least_free_bytes = least_free_bytes

    def has_room(self, more_bytes: int = 0) -> bool:
        """Tell whether enough of the disk is free, also after ``more_bytes`` more; OSError."""
        return self._free() >= self._least_free_bytes + more_bytes

    def trouble(self) -> str:
        """Say what keeps this node from working, "" if nothing does."""
        try:
            free = self._free()
            if free < self._least_free_bytes:
                return (
                    f"the disk of this node is full: {free // _MIB} MiB are free in {self._work}, "
                    f"{self._least_free_bytes // _MIB} are needed (least_free_bytes)"
                )
            for folder in self._folders:
                probe = folder / _PROBE
                probe.write_bytes(b"x" * 4096)
                probe.unlink()
        except OSError as error:
            return f"the work folder of this node cannot be used: {error}"
        return ""

    def _free(self) -> int:
        found = os.statvfs(self._work)
        return found.f_bavail * found.f_frsize


class Fitness:
    """What the head is to know of the workplace; ``tell`` reports to it, if a connection stands."""

    def __init__(self, workplace: Workplace, tell: Callable[[Message], bool]) -> None:
        self._workplace = workplace
        self._tell = tell
        # Held by the one that looks: two would trip over each other's probes, and could tell the
        # head in the wrong order what they found.
        self._looking = threading.Lock()
        # Guards _reason and _told: what a look found, and what the head was told last.
        self._lock = threading.Lock()
        self._reason = ""
        self._told = ""

    # ------------------------------------------------------------ called by the main thread

    def for_hello(self) -> str:
        """Give what HELLO says."""
        with self._lock:
            self._told = self._reason
            return self._reason

    def attached(self) -> None:
        """A connection stands: say what has changed since HELLO."""
        self._report()

    # ------------------------------------------------------------ called by the render threads

    @property
    def fit(self) -> bool:
        """Tell whether the node could work when it last looked."""
        with self._lock:
            return not self._reason

    def make_room(self, make: MakeRoom, more_bytes: int = 0) -> None:
        """Have room made where the disk is full, or would be with ``more_bytes`` more."""

        def enough() -> bool:
            return self._workplace.has_room(more_bytes)

        try:
            if not enough():
                make(enough)
        except OSError as error:
            log.debug("no room can be made: %s", error)

    def look(self, make: MakeRoom) -> str:
        """Look whether the node can work now, tell the head if that changed, and give the reason.

        ``make`` makes room where there is none.
        """
        with self._looking:
            self.make_room(make)
            reason = self._workplace.trouble()
            with self._lock:
                if bool(reason) != bool(self._reason):
                    what = f"no band can be worked on: {reason}" if reason else "fit again"
                    log.warning("%s", what)
                self._reason = reason
            self._report()
        return reason

    def _report(self) -> None:
        with self._lock:
            reason, told = self._reason, self._told
            # What changes only in its figures is not worth a message.
            if bool(reason) == bool(told):
                return
        if self._tell(Unfit(reason)):
            with self._lock:
                self._told = reason
