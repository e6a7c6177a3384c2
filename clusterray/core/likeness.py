"""How alike two classes of POV-Ray render, and what a job's ``mix`` makes of it; pure functions.

The measure is the canary, one small picture that every node renders as it starts: two classes are
as far apart as their canaries. That can show that they differ, never prove that they do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from clusterray.core.model import Mix, PovrayClass

CLOSE = 1
"""The largest difference of a channel, of 255, between canaries that count as close."""
_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """How many pixels of two canaries differ, and by how much of 255 at most in a channel."""

    pixels: int
    largest: int

    def __str__(self) -> str:
        some = "1 pixel" if self.pixels == 1 else f"{self.pixels} pixels"
        return f"up to {self.largest}/255 in {some}"


def may_share(mix: Mix, first: PovrayClass, other: PovrayClass) -> bool:
    """Tell whether tiles of ``other`` may join a frame that ``first`` has begun."""
    if mix == "any" or first == other:
        return True
    return mix == "close" and are_close(first, other)


def are_close(one: PovrayClass, other: PovrayClass) -> bool:
    """Tell whether no channel of the canaries differs by more than CLOSE."""
    found = difference(one.pixels, other.pixels)
    return found is not None and found.largest <= CLOSE


@lru_cache(maxsize=1024)
def difference(one: bytes, other: bytes) -> Difference | None:
    """Compare two canaries, RGB bytes; None where there are no two of one size to compare."""
    if not one or len(one) != len(other):
        return None
    steps = bytes(abs(a - b) for a, b in zip(one, other, strict=True))
    pixels = sum(any(steps[at : at + _CHANNELS]) for at in range(0, len(steps), _CHANNELS))
    return Difference(pixels, max(steps))


def difference_in_words(it: PovrayClass, most: PovrayClass) -> str:
    """Say how the class ``it`` differs from the class ``most``, "" if it does not."""
    words = []
    if it.version != most.version:
        words.append(f"other POV-Ray {it.version}")
    elif it.build != most.build:
        words.append(f"other build of POV-Ray: {it.build}")
    if it.canary != most.canary:
        found = difference(it.pixels, most.pixels)
        words.append("no canary to compare" if found is None else f"canary differs by {found}")
    if it.includes != most.includes and it.includes and most.includes:
        words.append("other include files")
    return ", ".join(words)
