"""Which bands of a picture are rendered again, and what comparing two tiles found; pure values."""

from __future__ import annotations

from dataclasses import dataclass

from clusterray.core.model import VerifyBands


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far two tiles of one band are apart.

    ``differing`` of ``pixels`` pixels are not the same in every bit. ``largest`` is, for each
    channel by its name, the largest difference between two values, in the file's own units, whose
    white is ``white``: 255 or 65535, for example, and 1 where a file holds light itself.
    """

    pixels: int
    differing: int
    largest: tuple[tuple[str, float], ...]
    white: float

    @property
    def most(self) -> float:
        """The largest difference of all channels."""
        return max((value for _, value in self.largest), default=0)


def spread(count: int, wanted: VerifyBands) -> list[int]:
    """Give the places of ``wanted`` of ``count`` bands, as evenly apart as can be, each once."""
    if wanted == "all" or wanted >= count:
        return list(range(count))
    return [(2 * number + 1) * count // (2 * wanted) for number in range(wanted)]
