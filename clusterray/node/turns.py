"""What two threads want at the same time: one gets it, the other waits for that and nothing else.

Any thread. Knows nothing of what is got, nor of leases.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

Waiting = Callable[[Callable[[], None]], AbstractContextManager[None]]
"""Put around a wait: takes what ends it early, and if that was called raises when it is left."""


def patiently(_end: Callable[[], None]) -> AbstractContextManager[None]:
    """Wait as long as it takes."""
    return contextlib.nullcontext()


class Turns:
    """Of each name one thread has the turn; who wants it meanwhile waits until that is over."""

    def __init__(self) -> None:
        # Guards _taken; notified when a turn is over or a wait is to end.
        self._changed = threading.Condition()
        self._taken: set[str] = set()

    @contextlib.contextmanager
    def turn(self, name: str, waiting: Waiting) -> Iterator[None]:
        """Have the turn of ``name``; raises what ``waiting`` does, and has no turn then."""
        unwanted = False
        taken = False

        def end() -> None:
            nonlocal unwanted
            with self._changed:
                unwanted = True
                self._changed.notify_all()

        try:
            # In this order: whoever calls ``end`` may hold a lock that leaving ``waiting`` takes.
            with waiting(end), self._changed:
                self._changed.wait_for(lambda: unwanted or name not in self._taken)
                if name not in self._taken:
                    self._taken.add(name)
                    taken = True
            yield
        finally:
            if taken:
                with self._changed:
                    self._taken.remove(name)
                    self._changed.notify_all()
