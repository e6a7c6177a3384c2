"""What all picture files have in common here: rows of bytes, from top to bottom, and their colours.

A row is the bytes that the file itself has for its pixels, so joining rows never changes a value.
Pure words between the modules of this room; knows no format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeAlias

from clusterray.core.model import Rect

Colour: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""What a file says of the meaning of its values: pairs of a name and a content, in fixed order."""
Strips: TypeAlias = Iterable[bytes]
"""A picture from top to bottom, each strip one or more whole rows."""

Seen: TypeAlias = Callable[[Rect, bytes], None]
"""Is shown whole rows of a part of a picture, and which part of it."""

MAX_SIDE = 1_000_000
"""Protocol limit of a pixel coordinate."""
STRIP_BYTES = 4 << 20
"""About so much of a picture is in memory at a time."""
_PIXELS_SEEN = 1 << 18


class TileFault(Exception):
    """A picture that is not what it should be; the message says in words what is wrong with it."""


class TileGone(TileFault):
    """The file of a tile that has been taken already is not there any more."""


class Source(Protocol):
    """A picture file that has been opened, its header believed but its pixels not yet read."""

    @property
    def width(self) -> int:
        """Number of columns."""

    @property
    def height(self) -> int:
        """Number of rows."""

    @property
    def colour(self) -> Colour:
        """What the values mean."""

    def rows(self, rect: Rect) -> bytes:
        """Give the rows of ``rect``, which lies inside; raises TileFault if they are damaged."""

    def strips(self, rect: Rect) -> Iterator[bytes]:
        """Give the rows of ``rect`` from top to bottom, some at a time; raises as ``rows``."""

    def check(self, rect: Rect) -> Source:
        """Read all that ``rows`` would; raises as it does. Gives itself, and what it has found."""


def pieces(rect: Rect, row_bytes: int) -> Iterator[Rect]:
    """Cut ``rect`` into pieces of whole rows for a strip each; a row takes ``row_bytes``."""
    step = max(1, STRIP_BYTES // row_bytes)
    for top in range(rect.y0, rect.y1, step):
        yield Rect(rect.x0, top, rect.x1, min(top + step, rect.y1))


def placed(strips: Strips, place: Rect, row_bytes: int) -> Iterator[tuple[Rect, bytes]]:
    """Say of each of the ``strips`` of ``place`` where it belongs."""
    top = place.y0
    for strip in strips:
        bottom = top + len(strip) // row_bytes
        yield Rect(place.x0, top, place.x1, bottom), strip
        top = bottom


def seeing_step(width: int, height: int) -> int:
    """Give the step between pixels that are enough to see a picture whose values are dear to turn.

    What is seen is shrunk to a preview anyway.
    """
    return max(1, math.isqrt(width * height // _PIXELS_SEEN))


def check_size(width: int, height: int) -> None:
    """Raise TileFault for a header that promises what no picture of ours can have."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise TileFault(f"its header says {width}x{height} pixels")


def broken_off(size: int) -> TileFault:
    """Give the fault of a file of ``size`` bytes that is not all there."""
    return TileFault(f"it ends after {size} bytes, in the middle of the picture")
