"""Attempts by when they are believed to end, the latest first; pure."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from clusterray.core.model import AttemptId

SLACK = 64
"""So many stale entries more than live ones are borne before all are sorted anew."""


class Ends:
    """A queue in which what is believed may change: O(log n) for each change and each look."""

    def __init__(self) -> None:
        self._ends: dict[AttemptId, float] = {}
        self._heap: list[tuple[float, AttemptId]] = []

    def __len__(self) -> int:
        return len(self._ends)

    def put(self, attempt: AttemptId, end: float) -> None:
        """Note when an attempt is believed to end, whatever was believed before."""
        self._ends[attempt] = end
        heappush(self._heap, (-end, attempt))
        if len(self._heap) > 2 * len(self._ends) + SLACK:
            self._heap = [(-end, attempt) for attempt, end in self._ends.items()]
            heapify(self._heap)

    def drop(self, attempt: AttemptId) -> None:
        """Forget an attempt, if it is known."""
        self._ends.pop(attempt, None)

    def latest(self, count: int) -> list[AttemptId]:
        """Give the ``count`` attempts that end last, the last one first; fewer if there are not."""
        found: list[tuple[float, AttemptId]] = []
        while self._heap and len(found) < count:
            entry = heappop(self._heap)
            stale = self._ends.get(entry[1]) != -entry[0]
            if not stale and entry not in found:
                found.append(entry)
        for entry in found:
            heappush(self._heap, entry)
        return [attempt for _, attempt in found]
