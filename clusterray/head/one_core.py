"""Keeps the head's threads on one core while they hand the interpreter's lock round a lot.

Python runs one thread at a time. Where the threads of a busy head are spread over cores, the lock
goes from core to core with nearly every system call: each time one core is woken and another falls
asleep, and a band costs twice the processor time (docs/performance.md). How much the lock goes
round is told by how often threads go to sleep. One that copies a scene or packs a picture's rows
hardly ever does, and then the head has all cores that it was given.

``Rule`` and ``calmest`` are pure. ``OneCore`` is the main thread's; what it sets holds for all
threads of the process, so a process must be the head's alone. Where the system has no such call or
one core is all there is, it does nothing. The head starts no programs, which would inherit this.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import time
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Final

LOOK_EVERY_S: Final = 1.0
CROWDED_PER_S: Final = 5000.0
"""Threads that are free go to sleep so often at about 140 bands a second."""
CALM_PER_S: Final = 1500.0
"""Those on one core go to sleep so often at about 40 bands a second. A thousand nodes that wait
make 320, one large scene under way or one large picture 400 at most."""
CALM_S: Final = 5.0
"""So long it must be calm before the threads are let go."""

_log = logging.getLogger("clusterray.head.one_core")


class Rule:
    """Judges whether the threads are to be together, now and then."""

    def __init__(self) -> None:
        self.together = False
        self._busy_at = -math.inf

    def judge(self, sleeps_per_s: float, now: float) -> bool:
        """Tell whether they are to be together, after they went to sleep so often a second."""
        if sleeps_per_s >= (CALM_PER_S if self.together else CROWDED_PER_S):
            self.together, self._busy_at = True, now
        elif now - self._busy_at >= CALM_S:
            self.together = False
        return self.together


def idle_ticks(stat: str) -> dict[int, int]:
    """Give for how long each core had nothing to do, from the text of /proc/stat."""
    lines = (line.split() for line in stat.splitlines() if line.startswith("cpu"))
    return {
        int(name[3:]): int(words[3]) + int(words[4])
        for name, *words in lines
        if name[3:].isdecimal()
    }


def calmest(cores: Set[int], before: Mapping[int, int], now: Mapping[int, int]) -> int:
    """Give which of the cores had least to do between two readings of ``idle_ticks``."""
    return max(sorted(cores), key=lambda core: now.get(core, 0) - before.get(core, 0))


class OneCore:
    """Looks now and then how the threads get on, and puts them together or lets them go.

    ``look`` is to be called at ``look_at``, in seconds of the clock; infinity: never.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rule = Rule()
        self._looked_at = clock()
        self._sleeps = _sleeps()
        self._idle: dict[int, int] = {}
        self._allowed: Set[int] = _allowed()
        self._placed: set[int] = set()
        self.look_at = clock() + LOOK_EVERY_S if len(self._allowed) > 1 else math.inf

    @property
    def calm(self) -> bool:
        """Tell whether the threads hand the lock round so little that they need not be together."""
        return not self._rule.together

    def look(self) -> None:
        """See how much the lock went round since the last time, and act upon it."""
        now, sleeps = self._clock(), _sleeps()
        per_s = (sleeps - self._sleeps) / max(now - self._looked_at, 0.001)
        self._looked_at, self._sleeps, self.look_at = now, sleeps, now + LOOK_EVERY_S
        was_together = self._rule.together
        try:
            if self._rule.judge(per_s, now):
                self._hold(per_s, anew=not was_together)
            elif was_together:
                self.let_go()
            else:
                self._idle = _idle()
        except OSError as error:
            _log.info("the head's threads cannot be kept on one core: %s", error)
            self.look_at = math.inf

    def let_go(self) -> None:
        """Let all threads run on all cores that the process had."""
        if self._placed:
            self._placed.clear()
            self._place(self._allowed)
            self._placed.clear()
            _log.debug("threads go to sleep seldom: they have all cores again")

    def _hold(self, per_s: float, *, anew: bool) -> None:
        if anew:
            # Somebody may have given the process other cores since it began.
            self._allowed = _allowed()
            self._core = calmest(self._allowed, self._idle, _idle())
            _log.debug("threads go to sleep %.0f times a second: all on core %d", per_s, self._core)
        self._place({self._core})

    def _place(self, cores: Set[int]) -> None:
        """Have the threads run on these cores that were not told so yet.

        A thread inherits its maker's, so new ones are looked for until there is none.
        """
        while fresh := _threads() - self._placed:
            for thread in fresh:
                # It may have ended meanwhile.
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(thread, cores)
            self._placed |= fresh


def _allowed() -> Set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else frozenset()


def _sleeps() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def _idle() -> dict[int, int]:
    with suppress(OSError):
        return idle_ticks(Path("/proc/stat").read_text("ascii"))
    return {}


def _threads() -> set[int]:
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}
