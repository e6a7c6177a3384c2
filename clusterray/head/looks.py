"""Who looks at previews, so that they are made for those who look, and when they begin to.

Asked by the web server's threads and by the stitcher; its one lock is held for moments. Knows
nothing of pictures.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Final

LOOKED_S: Final = 10.0
"""So long after somebody looked it is believed that he still does: the page asks every few
seconds."""


class Looks:
    """When each job was last looked at; ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._at: dict[str, float] = {}
        self._awaited: dict[str, threading.Event] = {}

    def look(self, job: str) -> threading.Event | None:
        """Somebody looks at a job; gives what he may wait for if nobody did of late."""
        with self._lock:
            if not self._is_looked_at(job):
                self._awaited[job] = threading.Event()
            self._at[job] = self._clock()
            return self._awaited.get(job)

    def is_looked_at(self, job: str) -> bool:
        """Tell whether somebody looks at a job."""
        with self._lock:
            return self._is_looked_at(job)

    def _is_looked_at(self, job: str) -> bool:
        return self._clock() - self._at.get(job, -math.inf) < LOOKED_S

    def answer(self, job: str) -> None:
        """Whoever waits for a job's preview need not any longer."""
        with self._lock:
            awaited = self._awaited.pop(job, None)
        if awaited is not None:
            awaited.set()

    def forget(self, job: str) -> None:
        """There is nothing more to be seen of a job."""
        self.answer(job)
        with self._lock:
            self._at.pop(job, None)
