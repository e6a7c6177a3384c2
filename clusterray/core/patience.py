"""How long the farm waits for what, and how often it lets a thing fail: numbers and clocks.

Each live attempt has a time by which it must have moved on. Parsing tells nothing of how far it
is, so it has one limit for all of it; every other phase must show progress, be it little. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from clusterray.core.entities import Attempt

UPLOADS: Final = 3
"""Uploads that arrive damaged before that is the node's failure."""
AGAIN_FIRST_S: Final = 5.0
AGAIN_MOST_S: Final = 60.0
"""Seconds until a tile that the head could not keep is asked for again: doubled, bounded."""
RETURN_S: Final = 20.0
"""Seconds in which nodes come back to a head that was started again: they wait for 15 s at most
between two tries."""
KEPT_OFF_MOST_S: Final = 86_400.0
_DOUBLINGS: Final = 16


@dataclass(frozen=True, slots=True)
class Patience:
    """What the farm bears; the head's settings of the same names, times in seconds.

    A band that ``band_nodes`` different nodes failed fails its job; so does one that all nodes
    failed that may render it, each ``band_tries`` times. ``node_failures`` on one job keep a node
    off that job, failures on ``node_failed_jobs`` jobs off the whole farm, for ``kept_off_s``,
    doubled each time. ``stall_s`` without progress, doubled each time it happens to a band, and
    ``parse_s`` of parsing end an attempt.
    """

    band_nodes: int = 3
    band_tries: int = 2
    node_failures: int = 3
    node_failed_jobs: int = 3
    kept_off_s: float = 300.0
    stall_s: float = 1800.0
    parse_s: float = 14_400.0

    def kept_off_for(self, times: int) -> float:
        """Give how long a node is kept off that has been so ``times`` times already."""
        return float(min(self.kept_off_s * 2 ** min(times, _DOUBLINGS), KEPT_OFF_MOST_S))

    def stall_limit(self, attempt: Attempt) -> float:
        """Give how long the attempt may be without progress."""
        return float(self.stall_s * 2 ** min(attempt.band.stalls, _DOUBLINGS))


def begin_waiting(attempt: Attempt, now: float, patience: Patience) -> None:
    """Let the attempt's time begin anew: it was leased, came back, or was held up by the head."""
    limit = patience.parse_s if attempt.phase == "parsing" else patience.stall_limit(attempt)
    attempt.due_at = now + limit


def hear(
    attempt: Attempt, phase: str, done: int, moves: int, now: float, patience: Patience
) -> None:
    """Take what a node says of its attempt, and give it time again if it has moved on."""
    moved = phase != attempt.phase or _moved(attempt, phase, done, moves)
    if phase != attempt.phase:
        attempt.phase, attempt.phase_at, attempt.heard = phase, now, (0, 0)
    if phase in _BYTES:
        done = max(done, attempt.heard[0])
    attempt.heard = done, moves
    if moved:
        begin_waiting(attempt, now, patience)


def _moved(attempt: Attempt, phase: str, done: int, moves: int) -> bool:
    if phase == "parsing":
        return False
    if phase in _BYTES:
        # Begun again and again, and never got further, is no progress.
        return done > attempt.heard[0]
    # Radiosity counts the pixels several times over.
    return (done, moves) != attempt.heard


_BYTES: Final = frozenset({"fetching", "uploading"})


def stall_words(attempt: Attempt, patience: Patience) -> str:
    """Say why an attempt is stopped that did not move on in time."""
    if attempt.phase == "parsing":
        return f"the scene was not parsed in {minutes(patience.parse_s)} (the head's parse_s)"
    limit = minutes(patience.stall_limit(attempt))
    return f"no progress for {limit} while {attempt.phase} (the head's stall_s)"


def again_in_s(uploads: int) -> float:
    """Give the seconds until a tile is asked for again that could not be kept ``uploads`` times."""
    return float(min(AGAIN_FIRST_S * 2 ** min(uploads, _DOUBLINGS), AGAIN_MOST_S))


def minutes(seconds: float) -> str:
    """Give a time in the words of a sentence."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
