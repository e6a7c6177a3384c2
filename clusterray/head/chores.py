"""The thread that does to the disk what nobody waits for: old files deleted, texts kept.

While a disk syncs, the making and deleting of files stands still; here that holds up no lease.
Chores are done in order; any thread may leave one. Knows not what they are.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeAlias

_log = logging.getLogger("clusterray.head.chores")
Chore: TypeAlias = Callable[[], object]


class Chores:
    """Does chores, one after another."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[Chore | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="chores")

    def start(self) -> None:
        """Start the thread ``chores``."""
        self._thread.start()

    def put(self, chore: Chore) -> None:
        """Have it done when its turn has come; an OSError is logged, and the next is done."""
        self._inbox.put(chore)

    def waiting(self) -> int:
        """Tell about how many are still to be done."""
        return self._inbox.qsize()

    def stop(self) -> None:
        """Do what is there, then end the thread."""
        if self._thread.is_alive():
            self._inbox.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (chore := self._inbox.get()) is not None:
            try:
                chore()
            except OSError as error:
                _log.warning("%s", error)
