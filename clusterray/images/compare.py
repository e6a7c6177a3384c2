"""Two tiles of one band held against each other: how many pixels differ, and by how much.

Every value counts, at the file's own depth, and no value is turned into another first. Runs in the
head's stitcher and a node's "probe" thread; keeps nothing. Knows nothing of bands or nodes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from operator import ne, sub
from pathlib import Path
from typing import Final

from clusterray.core.model import FileFormat, Rect
from clusterray.core.verify import Comparison
from clusterray.images.formats import channel_names, channel_values, pixel_bytes, white
from clusterray.images.rows import TileFault
from clusterray.images.tile import open_tile

_PIXELS: Final = 1 << 16
"""So many are turned into numbers at once, so that only the two tiles' bytes fill memory."""


def compare_tiles(first: Path, second: Path, rect: Rect, kind: FileFormat) -> Comparison:
    """Compare two tiles of the whole picture's pixels ``rect``.

    Raises TileFault in words if one of them is no such tile any more, or if the two say different
    things of what their values mean.
    """
    (one, place), (other, other_place) = (open_tile(path, rect, kind) for path in (first, second))
    if one.colour != other.colour:
        raise TileFault("the two tiles say different things of their colours")
    rows, others = one.rows(place), other.rows(other_place)
    step = pixel_bytes(kind)
    names = channel_names(kind)
    differing, largest = 0, [0.0] * len(names)
    for piece, other_piece in _pieces_apart(rows, others, _PIXELS * step):
        pixel = struct.Struct(f"{step}s")
        differing += sum(map(ne, pixel.iter_unpack(piece), pixel.iter_unpack(other_piece)))
        values = zip(channel_values(piece, kind), channel_values(other_piece, kind), strict=True)
        apart = [max(map(abs, map(sub, ones, twos))) for ones, twos in values]
        largest = [max(pair) for pair in zip(largest, apart, strict=True)]
    return Comparison(rect.area, differing, tuple(zip(names, largest, strict=True)), white(kind))


def _pieces_apart(rows: bytes, others: bytes, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Give the pieces of ``size`` bytes that are not the same."""
    if rows == others:
        return
    for at in range(0, len(rows), size):
        piece, other = rows[at : at + size], others[at : at + size]
        if piece != other:
            yield piece, other
