"""Waiting times between tries that grow and are scattered; pure, the caller does the waiting."""

from __future__ import annotations

import random


class Backoff:
    """Gives the seconds to wait before the next try: doubling, jittered, bounded.

    Each value lies between half of and the whole of the present bound, so that many nodes that
    lost one head do not come back at the same instant. One thread owns it.
    """

    def __init__(self, first_s: float, most_s: float, rng: random.Random) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._rng = rng
        self._bound_s = first_s

    def next_s(self) -> float:
        """Give the next wait in seconds, and double the bound for the one after."""
        wait_s = self._bound_s * self._rng.uniform(0.5, 1.0)
        self._bound_s = min(self._bound_s * 2, self._most_s)
        return wait_s

    def reset(self) -> None:
        """Begin anew after a success."""
        self._bound_s = self._first_s
