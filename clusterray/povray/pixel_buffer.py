"""Where POV-Ray keeps the picture while it renders: in memory, or in a file.

It has the whole frame, however small the band, 20 bytes a pixel. Beyond 128 MB that is a file, into
which each pixel is written as often as a block has rows: measured with 3.7.0.10 at 3200x2400, 660
bytes a pixel with blocks of 32, 185 with 8 and 1,020 with 64, and a fifth of the time of a cheap
scene at 5850x4388. What is in the picture does not depend on it.
"""

from __future__ import annotations

from clusterray.povray.state_file import PIXEL_BYTES

IN_MEMORY_BYTES = 128_000_000
"""POV-Ray's own bound, if it is told none."""
_LEAST_TIMES = 4
"""So many times what the picture takes must be free: others want memory, too."""
_MB = 1_000_000
_SPARE_MB = 16


def buffer_writes(pixels: int, block: int) -> int:
    """Give the bytes that POV-Ray may write for a picture of so many pixels that is in a file."""
    return pixels * PIXEL_BYTES * (block + 2) if pixels * PIXEL_BYTES > IN_MEMORY_BYTES else 0


def buffer_words(pixels: int, free_bytes: int) -> tuple[str, ...]:
    """Give the switch that has a large picture kept in memory where there is plenty."""
    needed = pixels * PIXEL_BYTES
    if needed <= IN_MEMORY_BYTES or free_bytes < _LEAST_TIMES * needed:
        return ()
    return (f"+MI{needed // _MB + _SPARE_MB}",)
